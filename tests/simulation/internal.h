/* What the parts of the simulated kernel share: its state, and each other's functions. See kernel.h.
 *
 * kernel.c   runs, chance, telling, the clock
 * network.c  connections, and what their clients do
 * epoll.c    descriptors, and what they report
 * sockets.c  system calls on sockets
 * locks.c    the loop's lock
 */

#ifndef SIM_INTERNAL_H
#define SIM_INTERNAL_H

#define _GNU_SOURCE
#include "kernel.h"

#include <dlfcn.h>
#include <errno.h>

#define SHOWN __attribute__((visibility("default")))

/* What is not for the simulation goes on to the C library. */
#define REAL(name)                                              \
    static __typeof__(&name) real;                              \
    if (real == NULL)                                           \
    real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

enum { SEGMENTS = 512, START_US = 1000000000 };

typedef enum Kind { FREE = 0, EPOLL, EVENT, LISTENER, SOCKET } Kind;

typedef struct Descriptor {
    Kind kind;
    int link;           /* SOCKET */
    uint64_t count;     /* EVENT */
    int is_watched;     /* in the epoll set */
    uint32_t events;
    uint64_t tag;
} Descriptor;

typedef struct Ring {
    uint8_t bytes[SIM_RING];
    uint32_t head, tail; /* they only grow; the place is modulo SIM_RING */
} Ring;

typedef struct Segment {
    uint32_t end; /* in.tail when it was sent */
    uint64_t at_us;
} Segment;

/* A connection. It outlives the engine's descriptor: what was sent may still be read. */
typedef struct Link {
    int fd;          /* the engine's; -1: not accepted yet, or closed */
    int is_made, is_accepted, is_closed;
    uint64_t at_us;  /* when it waits to be accepted */
    Ring in;         /* from the client */
    uint32_t arrived; /* of in */
    Segment segments[SEGMENTS];
    uint32_t first, last; /* of those on their way */
    uint64_t fin_us, reset_us; /* when the client's FIN and RST arrive; SIM_NEVER: it has sent none */
    int has_fin, has_reset, is_error_told;
    Ring out;        /* from the engine */
    int is_shut;     /* FIN follows it */
    int is_cut;      /* RST does, and what was not read yet may be lost */
    int is_deaf;     /* the client has closed: whatever comes is answered with RST */
} Link;

typedef struct Sim {
    int is_on, is_held, is_traced;
    uint64_t seed, rng, now_us, last_us;
    SimHooks hooks;
    SimWeather weather;
    pthread_mutex_t *lock;
    const uint32_t *spared;
    size_t n_spared, at_spared;
    uint32_t mishaps;
    Descriptor fds[SIM_FDS];
    Link links[SIM_LINKS];
    int backlog[SIM_LINKS];
    int n_backlog;
} Sim;

extern Sim sim;

static inline int sim_broken(int error)
{
    errno = error;
    return -1;
}

/* kernel.c */
uint32_t sim_below(uint32_t n);
int sim_mishap(uint32_t one_in);
void sim_trace(const char *format, ...) __attribute__((format(printf, 1, 2)));
void sim_fail(const char *format, ...) __attribute__((format(printf, 1, 2), noreturn));

/* network.c */
size_t ring_put(Ring *ring, const uint8_t *data, size_t len_bytes);
size_t ring_get(Ring *ring, uint8_t *data, size_t len_bytes);
void link_cut(Link *link);
void link_arrive(Link *link);
uint64_t link_after_all(const Link *link);
uint64_t network_next_arrival(void);
void client_connect(int client);
size_t client_room(int client);
size_t client_write(int client, const uint8_t *data, size_t len_bytes);
size_t client_unread(int client);
size_t client_read(int client, uint8_t *data, size_t len_bytes);
SimEnd client_ended(int client);
void client_finish(int client);
void client_reset(int client);
void client_leave(int client);

/* epoll.c */
Descriptor *fd_at(int fd); /* NULL: it is not one of the simulation's */
Descriptor *fd_live(int fd, const char *call);
int fd_take(Kind kind);
uint32_t fd_flags(Descriptor *d);
int fd_listen(void);
int fd_owner(int fd);
size_t fd_kept(int fd);
int fd_takes(int fd);
int epoll_is_ready(void);

#endif
