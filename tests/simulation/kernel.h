/* A kernel of one process, with a seed: sockets, epoll, an eventfd and a clock, for tests/uws_shims/sim_shim.pyx.
 *
 * What is built of this folder is loaded before the C library (LD_PRELOAD) and stands in for the system calls of the
 * engine as it was built for everybody: nothing in it knows of this. Descriptors from SIM_BASE on are simulated, while
 * a run is on. internal.h says which part is where.
 */

#ifndef SIM_KERNEL_H
#define SIM_KERNEL_H

#include <pthread.h>
#include <stddef.h>
#include <stdint.h>

enum {
    SIM_BASE = 64, /* the first simulated descriptor: what Python has open is below */
    SIM_FDS = 32,
    SIM_LINKS = 12, /* connections of one run */
    SIM_RING = 65536, /* bytes on their way, in each direction of a connection */
    SIM_FAILED = 3 /* the process's exit status when an invariant does not hold */
};

#define SIM_NEVER UINT64_MAX

/* What the world does when the engine gives it room. */
typedef struct SimHooks {
    void (*lock)(void);               /* before the loop's lock is taken: other threads may have had it */
    void (*sleep)(uint64_t until_us); /* epoll has nothing: until it has, or the time is over, or a signal comes */
    int (*wait)(uint64_t until_us);   /* on a condition, without the lock: 0, or ETIMEDOUT */
} SimHooks;

/* How the network and the kernel behave. Of calls: one in so many; 0: never. */
typedef struct SimWeather {
    uint32_t interrupted;   /* EINTR */
    uint32_t not_yet;       /* EAGAIN though there was something */
    uint32_t no_buffers;    /* ENOBUFS, ENOMEM of a send */
    uint32_t cut_short;     /* fewer bytes than there are, or than there is room for */
    uint32_t no_descriptor; /* EMFILE, ENFILE of accept4 */
    uint32_t gone_again;    /* ECONNABORTED of accept4 */
    uint32_t no_watch;      /* ENOMEM, ENOSPC of adding to the epoll set */
    uint32_t segment_bytes; /* a client's longest segment */
    uint32_t latency_us;    /* the longest */
    uint32_t send_bytes;    /* the engine's send buffer */
    uint32_t window_bytes;  /* what a client may have on its way */
} SimWeather;

/* What a client finds at its end of a connection. */
typedef enum SimEnd { SIM_OPEN = 0, SIM_EOF = 1, SIM_RESET = 2 } SimEnd;

typedef struct SimKernel {
    /* One run at a time. spared: numbers of mishaps that do not happen in it, in ascending order. */
    void (*begin)(uint64_t seed, const SimHooks *hooks, pthread_mutex_t *lock, const uint32_t *spared, size_t n_spared,
                  int is_traced);
    void (*set_weather)(const SimWeather *weather);
    void (*end)(void); /* fails where a descriptor is still open */
    uint32_t (*mishaps)(void);

    uint64_t (*now)(void);
    void (*advance)(uint64_t to_us);
    uint64_t (*next_arrival)(void); /* when something that is on its way arrives; SIM_NEVER */
    int (*is_ready)(void);          /* would epoll_wait() return something? */

    uint32_t (*below)(uint32_t n);
    int (*mishap)(uint32_t one_in); /* 1 now and then; numbered, so that a run can be repeated without some of them */

    int (*listen)(void); /* a listening descriptor */
    int (*owner)(int fd); /* the client whose connection it is */
    void (*connect)(int client);
    size_t (*write)(int client, const uint8_t *data, size_t len_bytes);
    size_t (*room)(int client);
    size_t (*unread)(int client);
    size_t (*read)(int client, uint8_t *data, size_t len_bytes);
    SimEnd (*ended)(int client); /* once there is nothing left to read */
    void (*finish)(int client);  /* FIN; the client still reads */
    void (*leave)(int client);   /* close(): FIN, and RST for what still comes */
    void (*reset)(int client);   /* RST */
    size_t (*kept)(int fd);      /* received, not read by the engine yet; FIN and RST count as one, read or not */
    int (*takes)(int fd);        /* would epoll report EPOLLOUT? */

    void (*trace)(const char *format, ...) __attribute__((format(printf, 1, 2)));
    void (*fail)(const char *format, ...) __attribute__((format(printf, 1, 2), noreturn));
} SimKernel;

__attribute__((visibility("default"))) const SimKernel *sim_kernel(void);

#endif
