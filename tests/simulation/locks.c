/* See internal.h. The loop's lock and its conditions: there is one thread, which acts as all, one after the other. */

#include "internal.h"

#include <errno.h>

SHOWN int pthread_mutex_lock(pthread_mutex_t *mutex)
{
    REAL(pthread_mutex_lock);
    if (!sim.is_on || mutex != sim.lock)
        return real(mutex);
    if (sim.is_held)
        sim_fail("a thread waits for the lock that it holds");
    sim.hooks.lock();
    sim.is_held = 1;
    return 0;
}

SHOWN int pthread_mutex_trylock(pthread_mutex_t *mutex)
{
    REAL(pthread_mutex_trylock);
    if (!sim.is_on || mutex != sim.lock)
        return real(mutex);
    if (sim.is_held)
        return EBUSY;
    sim.is_held = 1;
    return 0;
}

SHOWN int pthread_mutex_unlock(pthread_mutex_t *mutex)
{
    REAL(pthread_mutex_unlock);
    if (!sim.is_on || mutex != sim.lock)
        return real(mutex);
    if (!sim.is_held)
        sim_fail("a thread lets go of the lock that it does not hold");
    sim.is_held = 0;
    return 0;
}

static int waited(uint64_t until_us)
{
    int status;
    if (!sim.is_held)
        sim_fail("a thread waits on a condition without the lock");
    sim.is_held = 0;
    status = sim.hooks.wait(until_us);
    sim.is_held = 1;
    return status;
}

SHOWN int pthread_cond_wait(pthread_cond_t *condition, pthread_mutex_t *mutex)
{
    REAL(pthread_cond_wait);
    return sim.is_on && mutex == sim.lock ? waited(SIM_NEVER) : real(condition, mutex);
}

SHOWN int pthread_cond_timedwait(pthread_cond_t *condition, pthread_mutex_t *mutex, const struct timespec *until)
{
    REAL(pthread_cond_timedwait);
    if (!sim.is_on || mutex != sim.lock)
        return real(condition, mutex, until);
    return waited((uint64_t)until->tv_sec * 1000000 + (uint64_t)until->tv_nsec / 1000);
}
