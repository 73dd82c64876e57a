/* See internal.h. Descriptors, and the calls that are not about sockets alone: epoll, the eventfd, poll, close. What a
 * descriptor reports is Linux's (net/ipv4/tcp.c, fs/eventpoll.c). */

#include "internal.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

Descriptor *fd_at(int fd)
{
    if (!sim.is_on || fd < SIM_BASE || fd >= SIM_BASE + SIM_FDS)
        return NULL;
    return &sim.fds[fd - SIM_BASE];
}

Descriptor *fd_live(int fd, const char *call)
{
    Descriptor *d = fd_at(fd);
    if (d->kind == FREE)
        sim_fail("%s of descriptor %d, which is closed", call, fd);
    return d;
}

int fd_take(Kind kind)
{
    int i;
    for (i = 0; i < SIM_FDS; i++) {
        if (sim.fds[i].kind == FREE) {
            memset(&sim.fds[i], 0, sizeof(sim.fds[i]));
            sim.fds[i].kind = kind;
            return SIM_BASE + i;
        }
    }
    sim_fail("no simulated descriptor is left");
    return -1;
}

uint32_t fd_flags(Descriptor *d)
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
    link_arrive(link);
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
    int i, n = 0, start = (int)sim_below(SIM_FDS);
    uint32_t found;
    Descriptor *d;
    for (i = 0; i < SIM_FDS && n < most; i++) {
        d = &sim.fds[(start + i) % SIM_FDS];
        if (d->kind == FREE || !d->is_watched)
            continue;
        found = fd_flags(d) & (d->events | EPOLLERR | EPOLLHUP);
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

int epoll_is_ready(void)
{
    uint64_t rng = sim.rng;
    int n = collect(NULL, 1);
    sim.rng = rng;
    return n;
}

int fd_listen(void)
{
    return fd_take(LISTENER);
}

int fd_owner(int fd)
{
    return sim.fds[fd - SIM_BASE].link;
}

size_t fd_kept(int fd)
{
    Link *link = &sim.links[sim.fds[fd - SIM_BASE].link];
    link_arrive(link);
    return link->arrived - link->in.head + (link->has_fin || link->has_reset);
}

int fd_takes(int fd)
{
    return (fd_flags(&sim.fds[fd - SIM_BASE]) & EPOLLOUT) != 0;
}

SHOWN int close(int fd)
{
    Descriptor *d = fd_at(fd);
    Link *link;
    REAL(close);
    if (d == NULL)
        return real(fd);
    fd_live(fd, "close");
    if (d->kind == SOCKET) {
        link = &sim.links[d->link];
        link_arrive(link);
        if (d->is_watched)
            sim_fail("descriptor %d is closed, and still in the epoll set", fd);
        sim_trace("  client %d: descriptor %d is closed%s", d->link, fd,
              link->arrived != link->in.head ? ", with something unread" : "");
        link->fd = -1;
        link->is_closed = 1;
        /* With something unread it is RST that goes out, and not FIN. */
        if (link->arrived != link->in.head)
            link_cut(link);
    }
    d->kind = FREE;
    return 0;
}

SHOWN int epoll_create1(int flags)
{
    REAL(epoll_create1);
    return sim.is_on ? fd_take(EPOLL) : real(flags);
}

SHOWN int eventfd(unsigned count, int flags)
{
    int fd;
    REAL(eventfd);
    if (!sim.is_on)
        return real(count, flags);
    fd = fd_take(EVENT);
    sim.fds[fd - SIM_BASE].count = count;
    return fd;
}

SHOWN int epoll_ctl(int epoll, int op, int fd, struct epoll_event *event)
{
    Descriptor *d;
    REAL(epoll_ctl);
    if (fd_at(epoll) == NULL)
        return real(epoll, op, fd, event);
    fd_live(epoll, "epoll_ctl");
    if (fd_at(fd) == NULL)
        sim_fail("epoll_ctl of descriptor %d, which is none of the engine's", fd);
    d = fd_live(fd, "epoll_ctl");
    if (op == EPOLL_CTL_ADD && d->is_watched)
        sim_fail("descriptor %d is added to the epoll set a second time", fd);
    if (op != EPOLL_CTL_ADD && !d->is_watched) {
        if (d->kind == SOCKET)
            sim_fail("epoll_ctl: descriptor %d is not in the set", fd);
        return sim_broken(ENOENT);
    }
    if (op == EPOLL_CTL_ADD && d->kind != EVENT && sim_mishap(sim.weather.no_watch))
        return sim_broken(sim_below(2) ? ENOSPC : ENOMEM);
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
    if (fd_at(epoll) == NULL)
        return real(epoll, out, most, timeout_ms);
    fd_live(epoll, "epoll_wait");
    if (sim.is_held)
        sim_fail("epoll_wait with the lock held");
    if (timeout_ms >= 0)
        until = sim.now_us + (uint64_t)timeout_ms * 1000;
    if (sim_mishap(sim.weather.interrupted))
        return sim_broken(EINTR);
    n = collect(out, most);
    if (n == 0 && timeout_ms != 0) {
        sim.hooks.sleep(until);
        n = collect(out, most);
        if (n == 0 && sim.now_us < until)
            return sim_broken(EINTR);
    }
    return n;
}

SHOWN int poll(struct pollfd *asked, nfds_t n, int timeout_ms)
{
    Descriptor *d;
    REAL(poll);
    if (n != 1 || fd_at(asked->fd) == NULL)
        return real(asked, n, timeout_ms);
    d = fd_live(asked->fd, "poll");
    asked->revents = 0;
    if (d->kind == EPOLL)
        asked->revents = epoll_is_ready() ? POLLIN : 0;
    else
        asked->revents = (short)(fd_flags(d) & ((uint32_t)asked->events | POLLERR | POLLHUP));
    return asked->revents != 0;
}

SHOWN ssize_t read(int fd, void *data, size_t len_bytes)
{
    Descriptor *d = fd_at(fd);
    REAL(read);
    if (d == NULL)
        return real(fd, data, len_bytes);
    fd_live(fd, "read");
    if (d->kind != EVENT || len_bytes != sizeof(d->count))
        sim_fail("read of descriptor %d", fd);
    if (sim_mishap(sim.weather.interrupted))
        return sim_broken(EINTR);
    if (d->count == 0)
        return sim_broken(EAGAIN);
    memcpy(data, &d->count, sizeof(d->count));
    d->count = 0;
    return sizeof(d->count);
}

SHOWN ssize_t write(int fd, const void *data, size_t len_bytes)
{
    Descriptor *d = fd_at(fd);
    uint64_t one;
    REAL(write);
    if (d == NULL)
        return real(fd, data, len_bytes);
    fd_live(fd, "write");
    if (d->kind != EVENT || len_bytes != sizeof(one))
        sim_fail("write to descriptor %d", fd);
    if (sim_mishap(sim.weather.interrupted))
        return sim_broken(EINTR);
    memcpy(&one, data, sizeof(one));
    d->count += one;
    return sizeof(one);
}
