/* See internal.h. The system calls on sockets, as Linux answers them (net/ipv4/tcp.c, net/socket.c). */

#include "internal.h"

#include <errno.h>
#include <netinet/in.h>
#include <stdarg.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/uio.h>

static Link *socket_of(int fd, const char *call)
{
    Descriptor *d = fd_live(fd, call);
    if (d->kind != SOCKET)
        sim_fail("%s of descriptor %d, which is no socket", call, fd);
    link_arrive(&sim.links[d->link]);
    return &sim.links[d->link];
}

SHOWN ssize_t recv(int fd, void *data, size_t len_bytes, int flags)
{
    Link *link;
    size_t n;
    REAL(recv);
    if (fd_at(fd) == NULL)
        return real(fd, data, len_bytes, flags);
    link = socket_of(fd, "recv");
    if (sim_mishap(sim.weather.interrupted))
        return sim_broken(EINTR);
    n = link->arrived - link->in.head;
    if (n != 0) {
        if (sim_mishap(sim.weather.not_yet))
            return sim_broken(EAGAIN);
        if (n > len_bytes)
            n = len_bytes;
        if (n > 1 && sim_mishap(sim.weather.cut_short))
            n = 1 + sim_below((uint32_t)n);
        return (ssize_t)ring_get(&link->in, data, n);
    }
    if (link->has_reset && !link->is_error_told && !link->has_fin) {
        link->is_error_told = 1;
        return sim_broken(ECONNRESET);
    }
    if (link->has_fin || link->has_reset || link->is_cut)
        return 0;
    return sim_broken(EAGAIN);
}

static ssize_t sent(Link *link, const struct iovec *parts, size_t n_parts)
{
    size_t i, n, asked = 0, room, done = 0;
    if (sim_mishap(sim.weather.interrupted))
        return sim_broken(EINTR);
    if (link->has_reset && !link->is_error_told) {
        link->is_error_told = 1;
        return sim_broken(ECONNRESET);
    }
    if (link->is_shut || link->is_cut || link->has_reset)
        return sim_broken(EPIPE);
    if (sim_mishap(sim.weather.no_buffers))
        return sim_broken(sim_below(2) ? ENOBUFS : ENOMEM);
    room = sim.weather.send_bytes - (link->out.tail - link->out.head);
    for (i = 0; i < n_parts; i++)
        asked += parts[i].iov_len;
    if (asked == 0)
        return 0;
    if (room == 0 || sim_mishap(sim.weather.not_yet))
        return sim_broken(EAGAIN);
    if (room > asked)
        room = asked;
    if (room > 1 && sim_mishap(sim.weather.cut_short))
        room = 1 + sim_below((uint32_t)room);
    for (i = 0; i < n_parts && done < room; i++) {
        n = parts[i].iov_len < room - done ? parts[i].iov_len : room - done;
        done += ring_put(&link->out, parts[i].iov_base, n);
    }
    if (link->is_deaf) {
        link->out.head = link->out.tail;
        if (link->reset_us == SIM_NEVER)
            link->reset_us = link_after_all(link);
    }
    return (ssize_t)done;
}

SHOWN ssize_t send(int fd, const void *data, size_t len_bytes, int flags)
{
    struct iovec part = {(void *)data, len_bytes};
    REAL(send);
    if (fd_at(fd) == NULL)
        return real(fd, data, len_bytes, flags);
    return sent(socket_of(fd, "send"), &part, 1);
}

SHOWN ssize_t sendmsg(int fd, const struct msghdr *message, int flags)
{
    REAL(sendmsg);
    if (fd_at(fd) == NULL)
        return real(fd, message, flags);
    return sent(socket_of(fd, "sendmsg"), message->msg_iov, message->msg_iovlen);
}

/* __SOCKADDR_ARG: with _GNU_SOURCE the C library declares these with a union of all kinds of addresses. */
SHOWN int accept4(int fd, __SOCKADDR_ARG address, socklen_t *len_bytes, int flags)
{
    int i, client, ours;
    Link *link;
    REAL(accept4);
    if (fd_at(fd) == NULL)
        return real(fd, address, len_bytes, flags);
    if (fd_live(fd, "accept4")->kind != LISTENER)
        sim_fail("accept4 of descriptor %d", fd);
    if (sim_mishap(sim.weather.interrupted))
        return sim_broken(EINTR);
    i = 0;
    while (i < sim.n_backlog && sim.links[sim.backlog[i]].at_us > sim.now_us)
        i++;
    if (i == sim.n_backlog)
        return sim_broken(EAGAIN);
    if (sim_mishap(sim.weather.no_descriptor))
        return sim_broken(sim_below(2) ? EMFILE : ENFILE);
    client = sim.backlog[i];
    link = &sim.links[client];
    sim.n_backlog--;
    for (; i < sim.n_backlog; i++)
        sim.backlog[i] = sim.backlog[i + 1];
    link->is_accepted = 1;
    if (sim_mishap(sim.weather.gone_again)) {
        link->is_closed = 1;
        link_cut(link);
        return sim_broken(ECONNABORTED);
    }
    ours = fd_take(SOCKET);
    sim.fds[ours - SIM_BASE].link = client;
    link->fd = ours;
    sim_trace("  client %d: accepted as descriptor %d", client, ours);
    return ours;
}

SHOWN int shutdown(int fd, int how)
{
    Link *link;
    REAL(shutdown);
    if (fd_at(fd) == NULL)
        return real(fd, how);
    link = socket_of(fd, "shutdown");
    if (link->has_reset || link->is_cut)
        return sim_broken(ENOTCONN);
    link->is_shut = 1;
    return 0;
}

/* To nobody: it disconnects, with RST. */
SHOWN int connect(int fd, __CONST_SOCKADDR_ARG address, socklen_t len_bytes)
{
    Link *link;
    REAL(connect);
    if (fd_at(fd) == NULL)
        return real(fd, address, len_bytes);
    if (address.__sockaddr__->sa_family != AF_UNSPEC)
        sim_fail("connect of descriptor %d", fd);
    link = socket_of(fd, "connect");
    link->in.head = link->in.tail;
    link->arrived = link->in.tail;
    link->first = link->last;
    link_cut(link);
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
    if (fd_at(fd) == NULL)
        return real(fd, request, out);
    if (request != FIONREAD)
        sim_fail("ioctl %lu of descriptor %d", request, fd);
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
    return fd_at(fd) == NULL ? real(fd, level, name, out, len_bytes) : named(fd, out, len_bytes);
}

SHOWN int getsockname(int fd, __SOCKADDR_ARG out, socklen_t *len_bytes)
{
    REAL(getsockname);
    return fd_at(fd) == NULL ? real(fd, out, len_bytes) : named(fd, out.__sockaddr__, len_bytes);
}

SHOWN int getpeername(int fd, __SOCKADDR_ARG out, socklen_t *len_bytes)
{
    REAL(getpeername);
    return fd_at(fd) == NULL ? real(fd, out, len_bytes) : named(fd, out.__sockaddr__, len_bytes);
}
