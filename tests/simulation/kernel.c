/* See kernel.h. Runs: their seed, their clock, and what they tell. */

#include "internal.h"

#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

Sim sim;

/* ---- chance */

uint32_t sim_below(uint32_t n)
{
    sim.rng ^= sim.rng >> 12;
    sim.rng ^= sim.rng << 25;
    sim.rng ^= sim.rng >> 27;
    return n == 0 ? 0 : (uint32_t)(((sim.rng * 0x2545F4914F6CDD1DULL >> 32) * n) >> 32);
}

int sim_mishap(uint32_t one_in)
{
    uint32_t number;
    if (one_in == 0 || sim_below(one_in) != 0)
        return 0;
    number = sim.mishaps++;
    while (sim.at_spared < sim.n_spared && sim.spared[sim.at_spared] < number)
        sim.at_spared++;
    return sim.at_spared == sim.n_spared || sim.spared[sim.at_spared] != number;
}

/* ---- telling */

static void say(const char *format, va_list args)
{
    printf("%12.6f  ", (double)(sim.now_us - START_US) / 1e6);
    vprintf(format, args);
    printf("\n");
}

void sim_trace(const char *format, ...)
{
    va_list args;
    if (!sim.is_traced)
        return;
    va_start(args, format);
    say(format, args);
    va_end(args);
}

void sim_fail(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    sim.is_on = 0;
    printf("seed %llu, %u mishaps\n", (unsigned long long)sim.seed, sim.mishaps);
    say(format, args);
    fflush(stdout);
    _exit(SIM_FAILED);
}

/* ---- the clock */

SHOWN int clock_gettime(clockid_t clock, struct timespec *out)
{
    REAL(clock_gettime);
    if (!sim.is_on)
        return real(clock, out);
    out->tv_sec = (time_t)(sim.now_us / 1000000);
    out->tv_nsec = (long)(sim.now_us % 1000000 * 1000);
    return 0;
}

SHOWN ssize_t getrandom(void *out, size_t len_bytes, unsigned flags)
{
    size_t i;
    REAL(getrandom);
    if (!sim.is_on)
        return real(out, len_bytes, flags);
    for (i = 0; i < len_bytes; i++)
        ((uint8_t *)out)[i] = (uint8_t)sim_below(256);
    return (ssize_t)len_bytes;
}

/* ---- runs */

static void crashed(int number)
{
    if (sim.is_on)
        sim_fail("signal %d: the engine gives up", number);
    _exit(128 + number);
}

static void begin(uint64_t seed, const SimHooks *hooks, pthread_mutex_t *lock, const uint32_t *spared,
                  size_t n_spared, int is_traced)
{
    int i;
    signal(SIGABRT, crashed);
    /* Of a run that does not end whoever started it has set the alarm. */
    signal(SIGALRM, crashed);
    /* splitmix64: seeds that are neighbours have nothing in common. */
    uint64_t z = seed + 0x9E3779B97F4A7C15ULL;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ULL;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBULL;
    sim.rng = (z ^ (z >> 31)) | 1;
    sim.seed = seed;
    sim.now_us = START_US;
    sim.hooks = *hooks;
    sim.lock = lock;
    sim.is_held = 0;
    sim.spared = spared;
    sim.n_spared = n_spared;
    sim.at_spared = 0;
    sim.mishaps = 0;
    sim.n_backlog = 0;
    sim.is_traced = is_traced;
    memset(sim.fds, 0, sizeof(sim.fds));
    memset(&sim.weather, 0, sizeof(sim.weather));
    for (i = 0; i < SIM_LINKS; i++)
        sim.links[i].is_made = 0;
    sim.is_on = 1;
}

static void set_weather(const SimWeather *weather)
{
    sim.weather = *weather;
}

static void end(void)
{
    int i;
    if (sim.is_held)
        sim_fail("the lock is held at the end");
    for (i = 0; i < SIM_FDS; i++)
        if (sim.fds[i].kind != FREE && sim.fds[i].kind != LISTENER)
            sim_fail("descriptor %d is open at the end", SIM_BASE + i);
    if (sim.is_traced)
        fflush(stdout);
    sim.is_on = 0;
}

static uint32_t count_mishaps(void)
{
    return sim.mishaps;
}

static uint64_t now(void)
{
    return sim.now_us;
}

static void advance(uint64_t to_us)
{
    if (to_us > sim.now_us)
        sim.now_us = to_us;
}

static const SimKernel KERNEL = {
    .begin = begin,
    .set_weather = set_weather,
    .end = end,
    .mishaps = count_mishaps,
    .now = now,
    .advance = advance,
    .next_arrival = network_next_arrival,
    .is_ready = epoll_is_ready,
    .below = sim_below,
    .mishap = sim_mishap,
    .listen = fd_listen,
    .owner = fd_owner,
    .connect = client_connect,
    .write = client_write,
    .room = client_room,
    .unread = client_unread,
    .read = client_read,
    .ended = client_ended,
    .finish = client_finish,
    .leave = client_leave,
    .reset = client_reset,
    .kept = fd_kept,
    .takes = fd_takes,
    .trace = sim_trace,
    .fail = sim_fail,
};

const SimKernel *sim_kernel(void)
{
    return &KERNEL;
}
