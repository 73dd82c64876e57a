/* See kernel.h. What is done when, and what a descriptor reports, is Linux's (net/ipv4/tcp.c, fs/eventpoll.c). */

#define _GNU_SOURCE
#include "kernel.h"

#include <dlfcn.h>
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define SHOWN __attribute__((visibility("default")))

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

static struct {
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
} sim;

/* ---- chance */

static uint32_t below(uint32_t n)
{
    sim.rng ^= sim.rng >> 12;
    sim.rng ^= sim.rng << 25;
    sim.rng ^= sim.rng >> 27;
    return n == 0 ? 0 : (uint32_t)(((sim.rng * 0x2545F4914F6CDD1DULL >> 32) * n) >> 32);
}

static int mishap(uint32_t one_in)
{
    uint32_t number;
    if (one_in == 0 || below(one_in) != 0)
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

static void trace(const char *format, ...)
{
    va_list args;
    if (!sim.is_traced)
        return;
    va_start(args, format);
    say(format, args);
    va_end(args);
}

__attribute__((noreturn)) static void fail(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    sim.is_on = 0;
    printf("seed %llu, %u mishaps\n", (unsigned long long)sim.seed, sim.mishaps);
    say(format, args);
    fflush(stdout);
    _exit(SIM_FAILED);
}

/* ---- connections */

static size_t put(Ring *ring, const uint8_t *data, size_t len_bytes)
{
    size_t i = 0, at, n;
    while (i < len_bytes) {
        at = ring->tail % SIM_RING;
        n = SIM_RING - at < len_bytes - i ? SIM_RING - at : len_bytes - i;
        memcpy(ring->bytes + at, data + i, n);
        ring->tail += (uint32_t)n;
        i += n;
    }
    return len_bytes;
}

static size_t get(Ring *ring, uint8_t *data, size_t len_bytes)
{
    size_t i = 0, at, n;
    while (i < len_bytes) {
        at = ring->head % SIM_RING;
        n = SIM_RING - at < len_bytes - i ? SIM_RING - at : len_bytes - i;
        memcpy(data + i, ring->bytes + at, n);
        ring->head += (uint32_t)n;
        i += n;
    }
    return len_bytes;
}

/* The engine, or its kernel, has answered with RST: what the client had not received may be gone. */
static void cut(Link *link)
{
    link->is_cut = 1;
    link->out.tail = link->out.head + below(link->out.tail - link->out.head + 1);
}

/* Let what is due arrive. */
static void arrive(Link *link)
{
    int before = link->has_fin | link->has_reset;
    while (link->first != link->last && link->segments[link->first % SEGMENTS].at_us <= sim.now_us) {
        link->arrived = link->segments[link->first % SEGMENTS].end;
        link->first++;
        if (link->is_closed)
            cut(link);
    }
    if (link->fin_us <= sim.now_us)
        link->has_fin = 1;
    if (link->reset_us <= sim.now_us)
        link->has_reset = 1;
    if (!before && (link->has_fin || link->has_reset))
        trace("  client %d: %s arrives", (int)(link - sim.links), link->has_reset ? "RST" : "FIN");
}

static uint64_t later(uint64_t than_us)
{
    uint64_t at = sim.now_us + 1 + below(sim.weather.latency_us);
    return at > than_us ? at : than_us;
}

/* What one client sends arrives in order. */
static uint64_t after_all(const Link *link)
{
    uint64_t last = 0;
    if (link->first != link->last)
        last = link->segments[(link->last - 1) % SEGMENTS].at_us;
    if (link->at_us > last)
        last = link->at_us;
    if (link->fin_us != SIM_NEVER && link->fin_us > last)
        last = link->fin_us;
    return later(last);
}

static void do_connect(int client)
{
    Link *link = &sim.links[client];
    link->is_made = 1;
    link->fd = -1;
    link->is_accepted = link->is_closed = 0;
    link->in.head = link->in.tail = link->out.head = link->out.tail = 0;
    link->arrived = link->first = link->last = 0;
    link->fin_us = link->reset_us = SIM_NEVER;
    link->has_fin = link->has_reset = link->is_error_told = 0;
    link->is_shut = link->is_cut = link->is_deaf = 0;
    link->at_us = later(0);
    sim.backlog[sim.n_backlog++] = client;
}

static size_t do_room(int client)
{
    const Link *link = &sim.links[client];
    uint32_t used = link->in.tail - link->in.head;
    if (link->is_cut || link->is_closed || link->fin_us != SIM_NEVER || link->reset_us != SIM_NEVER)
        return 0;
    if (link->last - link->first == SEGMENTS || used >= sim.weather.window_bytes)
        return 0;
    return sim.weather.window_bytes - used;
}

static size_t do_write(int client, const uint8_t *data, size_t len_bytes)
{
    Link *link = &sim.links[client];
    size_t room = do_room(client), sent = 0, n;
    if (room > len_bytes)
        room = len_bytes;
    while (sent < room && link->last - link->first < SEGMENTS) {
        n = 1 + below(sim.weather.segment_bytes);
        if (n > room - sent)
            n = room - sent;
        put(&link->in, data + sent, n);
        sent += n;
        link->segments[link->last % SEGMENTS].at_us = after_all(link);
        link->segments[link->last % SEGMENTS].end = link->in.tail;
        link->last++;
    }
    return sent;
}

static size_t do_unread(int client)
{
    return sim.links[client].out.tail - sim.links[client].out.head;
}

static size_t do_read(int client, uint8_t *data, size_t len_bytes)
{
    size_t n = do_unread(client);
    return get(&sim.links[client].out, data, n < len_bytes ? n : len_bytes);
}

static SimEnd do_ended(int client)
{
    Link *link = &sim.links[client];
    arrive(link);
    if (link->is_cut)
        return SIM_RESET;
    return link->is_shut || link->is_closed ? SIM_EOF : SIM_OPEN;
}

static void do_finish(int client)
{
    Link *link = &sim.links[client];
    if (link->fin_us == SIM_NEVER && link->reset_us == SIM_NEVER)
        link->fin_us = after_all(link);
}

static void do_reset(int client)
{
    Link *link = &sim.links[client];
    if (link->reset_us == SIM_NEVER)
        link->reset_us = after_all(link);
    link->is_deaf = 1;
    link->out.head = link->out.tail;
}

static void do_leave(int client)
{
    Link *link = &sim.links[client];
    /* With something unread close() sends RST instead of FIN. */
    if (do_unread(client) != 0 || link->is_deaf) {
        do_reset(client);
        return;
    }
    do_finish(client);
    link->is_deaf = 1;
}

/* ---- descriptors */

static Descriptor *at(int fd)
{
    if (!sim.is_on || fd < SIM_BASE || fd >= SIM_BASE + SIM_FDS)
        return NULL;
    return &sim.fds[fd - SIM_BASE];
}

static Descriptor *live(int fd, const char *call)
{
    Descriptor *d = at(fd);
    if (d->kind == FREE)
        fail("%s of descriptor %d, which is closed", call, fd);
    return d;
}

static int take(Kind kind)
{
    int i;
    for (i = 0; i < SIM_FDS; i++) {
        if (sim.fds[i].kind == FREE) {
            memset(&sim.fds[i], 0, sizeof(sim.fds[i]));
            sim.fds[i].kind = kind;
            return SIM_BASE + i;
        }
    }
    fail("no simulated descriptor is left");
    return -1;
}

static uint32_t flags_of(Descriptor *d)
{
    Link *link;
    uint32_t found = 0, used, i;
    if (d->kind == EVENT)
        return d->count != 0 ? EPOLLIN : 0;
    if (d->kind == LISTENER) {
        for (i = 0; i < (uint32_t)sim.n_backlog; i++)
            if (sim.links[sim.backlog[i]].at_us <= sim.now_us)
                return EPOLLIN;
        return 0;
    }
    link = &sim.links[d->link];
    arrive(link);
    used = link->out.tail - link->out.head;
    if (link->arrived != link->in.head || link->has_fin || link->has_reset || link->is_cut)
        found |= EPOLLIN;
    /* sk_stream_is_writeable(): a third of the buffer is free. */
    if (link->is_shut || link->has_reset || link->is_cut || 2 * (sim.weather.send_bytes - used) >= used)
        found |= EPOLLOUT;
    if (link->has_reset && !link->is_error_told)
        found |= EPOLLERR;
    if ((link->has_fin && link->is_shut) || link->has_reset || link->is_cut)
        found |= EPOLLHUP;
    return found;
}

static int collect(struct epoll_event *out, int most)
{
    int i, n = 0, start = (int)below(SIM_FDS);
    uint32_t found;
    Descriptor *d;
    for (i = 0; i < SIM_FDS && n < most; i++) {
        d = &sim.fds[(start + i) % SIM_FDS];
        if (d->kind == FREE || !d->is_watched)
            continue;
        found = flags_of(d) & (d->events | EPOLLERR | EPOLLHUP);
        if (found == 0)
            continue;
        if (out != NULL) {
            out[n].events = found;
            out[n].data.u64 = d->tag;
        }
        n++;
    }
    return n;
}

static int is_ready(void)
{
    uint64_t rng = sim.rng;
    int n = collect(NULL, 1);
    sim.rng = rng;
    return n;
}

static uint64_t next_arrival(void)
{
    uint64_t next = SIM_NEVER, one;
    Link *link;
    int i;
    for (i = 0; i < SIM_LINKS; i++) {
        link = &sim.links[i];
        if (!link->is_made)
            continue;
        if (!link->is_accepted && link->at_us > sim.now_us && link->at_us < next)
            next = link->at_us;
        if (link->first != link->last) {
            one = link->segments[link->first % SEGMENTS].at_us;
            if (one < next && one > sim.now_us)
                next = one;
        }
        if (link->fin_us > sim.now_us && link->fin_us < next)
            next = link->fin_us;
        if (link->reset_us > sim.now_us && link->reset_us < next)
            next = link->reset_us;
    }
    return next;
}

/* ---- the system calls. Those of others go to the C library. */

#define REAL(name)                                              \
    static __typeof__(&name) real;                              \
    if (real == NULL)                                           \
    real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

static int broken(int error)
{
    errno = error;
    return -1;
}

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
        ((uint8_t *)out)[i] = (uint8_t)below(256);
    return (ssize_t)len_bytes;
}

SHOWN int close(int fd)
{
    Descriptor *d = at(fd);
    Link *link;
    REAL(close);
    if (d == NULL)
        return real(fd);
    live(fd, "close");
    if (d->kind == SOCKET) {
        link = &sim.links[d->link];
        arrive(link);
        if (d->is_watched)
            fail("descriptor %d is closed, and still in the epoll set", fd);
        trace("  client %d: descriptor %d is closed%s", d->link, fd,
              link->arrived != link->in.head ? ", with something unread" : "");
        link->fd = -1;
        link->is_closed = 1;
        /* With something unread it is RST that goes out, and not FIN. */
        if (link->arrived != link->in.head)
            cut(link);
    }
    d->kind = FREE;
    return 0;
}

SHOWN int epoll_create1(int flags)
{
    REAL(epoll_create1);
    return sim.is_on ? take(EPOLL) : real(flags);
}

SHOWN int eventfd(unsigned count, int flags)
{
    int fd;
    REAL(eventfd);
    if (!sim.is_on)
        return real(count, flags);
    fd = take(EVENT);
    sim.fds[fd - SIM_BASE].count = count;
    return fd;
}

SHOWN int epoll_ctl(int epoll, int op, int fd, struct epoll_event *event)
{
    Descriptor *d;
    REAL(epoll_ctl);
    if (at(epoll) == NULL)
        return real(epoll, op, fd, event);
    live(epoll, "epoll_ctl");
    if (at(fd) == NULL)
        fail("epoll_ctl of descriptor %d, which is none of the engine's", fd);
    d = live(fd, "epoll_ctl");
    if (op == EPOLL_CTL_ADD && d->is_watched)
        fail("descriptor %d is added to the epoll set a second time", fd);
    if (op != EPOLL_CTL_ADD && !d->is_watched) {
        if (d->kind == SOCKET)
            fail("epoll_ctl: descriptor %d is not in the set", fd);
        return broken(ENOENT);
    }
    if (op == EPOLL_CTL_ADD && d->kind != EVENT && mishap(sim.weather.no_watch))
        return broken(below(2) ? ENOSPC : ENOMEM);
    d->is_watched = op != EPOLL_CTL_DEL;
    if (d->is_watched) {
        d->events = event->events;
        d->tag = event->data.u64;
    }
    return 0;
}

SHOWN int epoll_wait(int epoll, struct epoll_event *out, int most, int timeout_ms)
{
    uint64_t until = SIM_NEVER;
    int n;
    REAL(epoll_wait);
    if (at(epoll) == NULL)
        return real(epoll, out, most, timeout_ms);
    live(epoll, "epoll_wait");
    if (sim.is_held)
        fail("epoll_wait with the lock held");
    if (timeout_ms >= 0)
        until = sim.now_us + (uint64_t)timeout_ms * 1000;
    if (mishap(sim.weather.interrupted))
        return broken(EINTR);
    n = collect(out, most);
    if (n == 0 && timeout_ms != 0) {
        sim.hooks.sleep(until);
        n = collect(out, most);
        if (n == 0 && sim.now_us < until)
            return broken(EINTR);
    }
    return n;
}

SHOWN int poll(struct pollfd *asked, nfds_t n, int timeout_ms)
{
    Descriptor *d;
    REAL(poll);
    if (n != 1 || at(asked->fd) == NULL)
        return real(asked, n, timeout_ms);
    d = live(asked->fd, "poll");
    asked->revents = 0;
    if (d->kind == EPOLL)
        asked->revents = is_ready() ? POLLIN : 0;
    else
        asked->revents = (short)(flags_of(d) & ((uint32_t)asked->events | POLLERR | POLLHUP));
    return asked->revents != 0;
}

SHOWN ssize_t read(int fd, void *data, size_t len_bytes)
{
    Descriptor *d = at(fd);
    REAL(read);
    if (d == NULL)
        return real(fd, data, len_bytes);
    live(fd, "read");
    if (d->kind != EVENT || len_bytes != sizeof(d->count))
        fail("read of descriptor %d", fd);
    if (mishap(sim.weather.interrupted))
        return broken(EINTR);
    if (d->count == 0)
        return broken(EAGAIN);
    memcpy(data, &d->count, sizeof(d->count));
    d->count = 0;
    return sizeof(d->count);
}

SHOWN ssize_t write(int fd, const void *data, size_t len_bytes)
{
    Descriptor *d = at(fd);
    uint64_t one;
    REAL(write);
    if (d == NULL)
        return real(fd, data, len_bytes);
    live(fd, "write");
    if (d->kind != EVENT || len_bytes != sizeof(one))
        fail("write to descriptor %d", fd);
    if (mishap(sim.weather.interrupted))
        return broken(EINTR);
    memcpy(&one, data, sizeof(one));
    d->count += one;
    return sizeof(one);
}

static Link *socket_of(int fd, const char *call)
{
    Descriptor *d = live(fd, call);
    if (d->kind != SOCKET)
        fail("%s of descriptor %d, which is no socket", call, fd);
    arrive(&sim.links[d->link]);
    return &sim.links[d->link];
}

SHOWN ssize_t recv(int fd, void *data, size_t len_bytes, int flags)
{
    Link *link;
    size_t n;
    REAL(recv);
    if (at(fd) == NULL)
        return real(fd, data, len_bytes, flags);
    link = socket_of(fd, "recv");
    if (mishap(sim.weather.interrupted))
        return broken(EINTR);
    n = link->arrived - link->in.head;
    if (n != 0) {
        if (mishap(sim.weather.not_yet))
            return broken(EAGAIN);
        if (n > len_bytes)
            n = len_bytes;
        if (n > 1 && mishap(sim.weather.cut_short))
            n = 1 + below((uint32_t)n);
        return (ssize_t)get(&link->in, data, n);
    }
    if (link->has_reset && !link->is_error_told && !link->has_fin) {
        link->is_error_told = 1;
        return broken(ECONNRESET);
    }
    if (link->has_fin || link->has_reset || link->is_cut)
        return 0;
    return broken(EAGAIN);
}

static ssize_t sent(Link *link, const struct iovec *parts, size_t n_parts)
{
    size_t i, n, asked = 0, room, done = 0;
    if (mishap(sim.weather.interrupted))
        return broken(EINTR);
    if (link->has_reset && !link->is_error_told) {
        link->is_error_told = 1;
        return broken(ECONNRESET);
    }
    if (link->is_shut || link->is_cut || link->has_reset)
        return broken(EPIPE);
    if (mishap(sim.weather.no_buffers))
        return broken(below(2) ? ENOBUFS : ENOMEM);
    room = sim.weather.send_bytes - (link->out.tail - link->out.head);
    for (i = 0; i < n_parts; i++)
        asked += parts[i].iov_len;
    if (asked == 0)
        return 0;
    if (room == 0 || mishap(sim.weather.not_yet))
        return broken(EAGAIN);
    if (room > asked)
        room = asked;
    if (room > 1 && mishap(sim.weather.cut_short))
        room = 1 + below((uint32_t)room);
    for (i = 0; i < n_parts && done < room; i++) {
        n = parts[i].iov_len < room - done ? parts[i].iov_len : room - done;
        done += put(&link->out, parts[i].iov_base, n);
    }
    if (link->is_deaf) {
        link->out.head = link->out.tail;
        if (link->reset_us == SIM_NEVER)
            link->reset_us = after_all(link);
    }
    return (ssize_t)done;
}

SHOWN ssize_t send(int fd, const void *data, size_t len_bytes, int flags)
{
    struct iovec part = {(void *)data, len_bytes};
    REAL(send);
    if (at(fd) == NULL)
        return real(fd, data, len_bytes, flags);
    return sent(socket_of(fd, "send"), &part, 1);
}

SHOWN ssize_t sendmsg(int fd, const struct msghdr *message, int flags)
{
    REAL(sendmsg);
    if (at(fd) == NULL)
        return real(fd, message, flags);
    return sent(socket_of(fd, "sendmsg"), message->msg_iov, message->msg_iovlen);
}

/* __SOCKADDR_ARG: with _GNU_SOURCE the C library declares these with a union of all kinds of addresses. */
SHOWN int accept4(int fd, __SOCKADDR_ARG address, socklen_t *len_bytes, int flags)
{
    int i, client, ours;
    Link *link;
    REAL(accept4);
    if (at(fd) == NULL)
        return real(fd, address, len_bytes, flags);
    if (live(fd, "accept4")->kind != LISTENER)
        fail("accept4 of descriptor %d", fd);
    if (mishap(sim.weather.interrupted))
        return broken(EINTR);
    i = 0;
    while (i < sim.n_backlog && sim.links[sim.backlog[i]].at_us > sim.now_us)
        i++;
    if (i == sim.n_backlog)
        return broken(EAGAIN);
    if (mishap(sim.weather.no_descriptor))
        return broken(below(2) ? EMFILE : ENFILE);
    client = sim.backlog[i];
    link = &sim.links[client];
    sim.n_backlog--;
    for (; i < sim.n_backlog; i++)
        sim.backlog[i] = sim.backlog[i + 1];
    link->is_accepted = 1;
    if (mishap(sim.weather.gone_again)) {
        link->is_closed = 1;
        cut(link);
        return broken(ECONNABORTED);
    }
    ours = take(SOCKET);
    sim.fds[ours - SIM_BASE].link = client;
    link->fd = ours;
    trace("  client %d: accepted as descriptor %d", client, ours);
    return ours;
}

SHOWN int shutdown(int fd, int how)
{
    Link *link;
    REAL(shutdown);
    if (at(fd) == NULL)
        return real(fd, how);
    link = socket_of(fd, "shutdown");
    if (link->has_reset || link->is_cut)
        return broken(ENOTCONN);
    link->is_shut = 1;
    return 0;
}

/* To nobody: it disconnects, with RST. */
SHOWN int connect(int fd, __CONST_SOCKADDR_ARG address, socklen_t len_bytes)
{
    Link *link;
    REAL(connect);
    if (at(fd) == NULL)
        return real(fd, address, len_bytes);
    if (address.__sockaddr__->sa_family != AF_UNSPEC)
        fail("connect of descriptor %d", fd);
    link = socket_of(fd, "connect");
    link->in.head = link->in.tail;
    link->arrived = link->in.tail;
    link->first = link->last;
    cut(link);
    return 0;
}

SHOWN int ioctl(int fd, unsigned long request, ...)
{
    va_list args;
    void *out;
    Link *link;
    REAL(ioctl);
    va_start(args, request);
    out = va_arg(args, void *);
    va_end(args);
    if (at(fd) == NULL)
        return real(fd, request, out);
    if (request != FIONREAD)
        fail("ioctl %lu of descriptor %d", request, fd);
    link = socket_of(fd, "ioctl");
    *(int *)out = (int)(link->arrived - link->in.head);
    return 0;
}

static int named(int fd, void *out, socklen_t *len_bytes)
{
    struct sockaddr_in address;
    socket_of(fd, "a socket's name");
    memset(&address, 0, sizeof(address));
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    memcpy(out, &address, *len_bytes < sizeof(address) ? *len_bytes : sizeof(address));
    *len_bytes = sizeof(address);
    return 0;
}

SHOWN int getsockopt(int fd, int level, int name, void *out, socklen_t *len_bytes)
{
    REAL(getsockopt);
    return at(fd) == NULL ? real(fd, level, name, out, len_bytes) : named(fd, out, len_bytes);
}

SHOWN int getsockname(int fd, __SOCKADDR_ARG out, socklen_t *len_bytes)
{
    REAL(getsockname);
    return at(fd) == NULL ? real(fd, out, len_bytes) : named(fd, out.__sockaddr__, len_bytes);
}

SHOWN int getpeername(int fd, __SOCKADDR_ARG out, socklen_t *len_bytes)
{
    REAL(getpeername);
    return at(fd) == NULL ? real(fd, out, len_bytes) : named(fd, out.__sockaddr__, len_bytes);
}

/* ---- the loop's lock: there is one thread, which acts as all of them, one after the other */

SHOWN int pthread_mutex_lock(pthread_mutex_t *mutex)
{
    REAL(pthread_mutex_lock);
    if (!sim.is_on || mutex != sim.lock)
        return real(mutex);
    if (sim.is_held)
        fail("a thread waits for the lock that it holds");
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
        fail("a thread lets go of the lock that it does not hold");
    sim.is_held = 0;
    return 0;
}

static int waited(uint64_t until_us)
{
    int status;
    if (!sim.is_held)
        fail("a thread waits on a condition without the lock");
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

/* ---- runs */

static void crashed(int number)
{
    if (sim.is_on)
        fail("signal %d: the engine gives up", number);
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
        fail("the lock is held at the end");
    for (i = 0; i < SIM_FDS; i++)
        if (sim.fds[i].kind != FREE && sim.fds[i].kind != LISTENER)
            fail("descriptor %d is open at the end", SIM_BASE + i);
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

static int do_listen(void)
{
    return take(LISTENER);
}

static int owner(int fd)
{
    return sim.fds[fd - SIM_BASE].link;
}

static size_t kept(int fd)
{
    Link *link = &sim.links[sim.fds[fd - SIM_BASE].link];
    arrive(link);
    return link->arrived - link->in.head + (link->has_fin || link->has_reset);
}

static int takes(int fd)
{
    return (flags_of(&sim.fds[fd - SIM_BASE]) & EPOLLOUT) != 0;
}

static const SimKernel KERNEL = {
    begin,    set_weather, end,      count_mishaps, now,       advance,  next_arrival, is_ready, below,
    mishap,   do_listen,   owner,    do_connect,    do_write,  do_room,  do_unread,    do_read,  do_ended,
    do_finish, do_leave,   do_reset, kept,          takes,     trace,    fail,
};

const SimKernel *sim_kernel(void)
{
    return &KERNEL;
}
