/* What a server needs whose instructions are counted by callgrind: marks, and a world in which nothing is left to chance.
 *
 * Preloaded by bench/instructions.py. Counting begins and ends when the server says so. The engine's random numbers
 * begin with the same seed each time. And its clock can be stopped: for good, or so that it goes on where the poller would
 * wait, by as long as it would wait, when every frame that was sent has been answered. So minutes pass in no time,
 * and what happens in them is the same, however fast the machine is.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>
#include <valgrind/callgrind.h>

#define SEED_BYTE 0x5a
#define LOOK_MS 5          /* how often a poller that is at the end of its time looks whether it was given more */
#define ANSWER_US 200
#define NS_PER_MS 1000000

static atomic_bool stopped;
static atomic_bool skipping;        /* the poller's waits are skipped, and the clock is put forward instead */
static _Atomic int64_t now_ns;
static _Atomic int64_t end_ns;
static atomic_int unanswered;
static sem_t over;

static void *next(const char *name)
{
    void *found = dlsym(RTLD_NEXT, name);
    if (found == NULL) {
        fprintf(stderr, "counted: no %s\n", name);
        abort();
    }
    return found;
}

static int (*real_clock_gettime)(clockid_t, struct timespec *);
static int (*real_epoll_wait)(int, struct epoll_event *, int, int);
static ssize_t (*real_send)(int, const void *, size_t, int);
static ssize_t (*real_recv)(int, void *, size_t, int);

__attribute__((constructor)) static void find(void)
{
    real_clock_gettime = next("clock_gettime");
    real_epoll_wait = next("epoll_wait");
    real_send = next("send");
    real_recv = next("recv");
}

/* ---- said by the server */

void counted_begin(void)
{
    CALLGRIND_START_INSTRUMENTATION;
    CALLGRIND_ZERO_STATS;
}

void counted_end(const char *name)
{
    CALLGRIND_DUMP_STATS_AT(name);
}

/* skip_waits: counted_run_clock() will be called. To be said while no poller waits, or only for what is bound to come. */
void counted_stop_clock(int skip_waits)
{
    struct timespec now;
    sem_init(&over, 0, 0);
    real_clock_gettime(CLOCK_MONOTONIC, &now);
    now_ns = end_ns = now.tv_sec * INT64_C(1000000000) + now.tv_nsec;
    skipping = skip_waits;
    stopped = true;
}

/* Returns when it is so much later. */
void counted_run_clock(int64_t ms)
{
    end_ns += ms * NS_PER_MS;
    while (sem_wait(&over) != 0)
        ;
}

/* ---- asked by the engine, and by Python */

int clock_gettime(clockid_t clock, struct timespec *out)
{
    if (real_clock_gettime == NULL)
        find();
    if (clock != CLOCK_MONOTONIC || !stopped)
        return real_clock_gettime(clock, out);
    int64_t now = now_ns;
    out->tv_sec = now / 1000000000;
    out->tv_nsec = now % 1000000000;
    return 0;
}

ssize_t getrandom(void *out, size_t len, unsigned int flags)
{
    (void)flags;
    memset(out, SEED_BYTE, len);
    return (ssize_t)len;
}

ssize_t send(int fd, const void *data, size_t len, int flags)
{
    ssize_t n = real_send(fd, data, len, flags);
    if (n > 0 && stopped)
        unanswered++;
    return n;
}

ssize_t recv(int fd, void *data, size_t len, int flags)
{
    ssize_t n = real_recv(fd, data, len, flags);
    if (n > 0 && stopped)
        unanswered--;
    return n;
}

int epoll_wait(int fd, struct epoll_event *ready, int max, int timeout_ms)
{
    if (!skipping || timeout_ms == 0)
        return real_epoll_wait(fd, ready, max, timeout_ms);
    for (;;) {
        /* Answers that are on their way come together, or else it would depend on the client how many turns they take. */
        int n = real_epoll_wait(fd, ready, max, 0);
        if (n != 0 && n >= (unanswered < max ? unanswered : max))
            return n;
        if (n == 0 && unanswered <= 0 && now_ns < end_ns) {
            int64_t until = timeout_ms < 0 ? end_ns : now_ns + (int64_t)timeout_ms * NS_PER_MS;
            now_ns = until < end_ns ? until : end_ns;
            if (until >= end_ns)
                sem_post(&over);
            return 0;
        }
        if (n == 0 && unanswered <= 0)
            n = real_epoll_wait(fd, ready, max, LOOK_MS);
        else
            usleep(ANSWER_US);
        if (n < 0)
            return n;
    }
}
