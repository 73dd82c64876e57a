/* The floor: an echo server in plain C, for nobody to be faster than.
 *
 * One epoll, one recv and one send per readable event: all replies of one event leave together. It does what
 * any echo server must do to the bytes (handshake, unmask, encode, short writes, partial frames) and leaves out
 * what a real server owes beyond that: timers, limits on the rate, UTF-8, the rules on fragments.
 *
 *     wsfloor [PORT]      prints the port it listens on, on all addresses; runs until killed
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <malloc.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdbool.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "wscommon.h"

#define ARENA_BYTES 65536
#define MAX_HEAD_BYTES 4096
#define MAX_FRAME_BYTES (64u << 20)
#define EVENTS 1024
#define MAX_FDS (1u << 20) /* the kernel's own default; the hard limit may be "infinity" */

/* One slot of a flat table, indexed by fd. An idle connection owns nothing beside it. */
struct conn {
    uint8_t *held;      /* the start of a frame or of a request that has not arrived as a whole */
    uint8_t *pending;   /* replies that the kernel did not take */
    uint32_t held_len;
    uint32_t held_cap;  /* above ARENA_BYTES: one large frame is being collected, and nothing behind it */
    uint32_t pending_pos;
    uint32_t pending_len;
    bool upgraded;
    bool closing;       /* the close frame is answered: end once everything is written */
};

static struct conn *table;
static int epoll_fd;
static uint8_t arena[ARENA_BYTES + 1];
static uint8_t replies[ARENA_BYTES];

static void drop(int fd)
{
    struct conn *c = &table[fd];
    free(c->held);
    free(c->pending);
    memset(c, 0, sizeof *c);
    close(fd);
}

static void watch(int fd, uint32_t events)
{
    struct epoll_event event = {.events = events, .data.fd = fd};
    if (epoll_ctl(epoll_fd, EPOLL_CTL_MOD, fd, &event) != 0)
        die("epoll_ctl");
}

/* Sends, and keeps what the kernel does not take. While something is kept the connection is not read:
 * a client that does not read its replies must not make us buffer them without end. */
static int send_or_keep(int fd, const uint8_t *data, size_t len)
{
    struct conn *c = &table[fd];
    ssize_t sent = send(fd, data, len, MSG_NOSIGNAL);
    if (sent < 0) {
        if (errno != EAGAIN)
            return -1;
        sent = 0;
    }
    if ((size_t)sent == len)
        return c->closing ? -1 : 0;
    c->pending_len = (uint32_t)(len - (size_t)sent);
    c->pending_pos = 0;
    c->pending = malloc(c->pending_len);
    if (!c->pending)
        return -1;
    memcpy(c->pending, data + sent, c->pending_len);
    watch(fd, EPOLLOUT);
    return 0;
}

static int hold(struct conn *c, const uint8_t *data, size_t len, size_t cap)
{
    c->held = malloc(cap);
    if (!c->held)
        return -1;
    memcpy(c->held, data, len);
    c->held_len = (uint32_t)len;
    c->held_cap = (uint32_t)cap;
    return 0;
}

/* Size of the whole frame at data, 0 if its header is not complete, -1 if it breaks the protocol. */
static int64_t frame_size(const uint8_t *data, size_t len, size_t *header_len, uint64_t *payload_len)
{
    if (len < 2)
        return 0;
    uint8_t short_len = data[1] & 0x7F;
    bool masked = data[1] & 0x80;
    if (!masked || data[0] & 0x70)
        return -1;
    if (data[0] & 0x08 && (short_len > 125 || !(data[0] & 0x80)))
        return -1;
    *header_len = short_len < 126 ? 6 : short_len == 126 ? 8 : 14;
    if (len < *header_len)
        return 0;
    if (short_len < 126) {
        *payload_len = short_len;
    } else if (short_len == 126) {
        uint16_t wire;
        memcpy(&wire, data + 2, 2);
        *payload_len = be16toh(wire);
    } else {
        uint64_t wire;
        memcpy(&wire, data + 2, 8);
        *payload_len = be64toh(wire);
        if (*payload_len > MAX_FRAME_BYTES)
            return -1;
    }
    return (int64_t)(*header_len + *payload_len);
}

/* Writes the reply to one whole frame, at most as long as the frame itself: our header has no mask. */
static size_t reply_to(struct conn *c, const uint8_t *data, size_t header_len, uint64_t payload_len, uint8_t *out)
{
    uint8_t first = data[0];
    uint8_t opcode = first & 0x0F;
    if (opcode == OP_PONG)
        return 0;
    if (opcode == OP_PING)
        first = 0x80 | OP_PONG;
    if (opcode == OP_CLOSE)
        c->closing = true;
    size_t n = put_header(out, first, payload_len);
    xor_copy(out + n, data + header_len, payload_len, data + header_len - 4);
    return n + payload_len;
}

static int echo_frames(int fd, const uint8_t *data, size_t len)
{
    struct conn *c = &table[fd];
    size_t out = 0;
    size_t pos = 0;
    while (pos < len && !c->closing) {
        size_t header_len = 0;
        uint64_t payload_len = 0;
        int64_t size = frame_size(data + pos, len - pos, &header_len, &payload_len);
        if (size < 0)
            return -1;
        if (size == 0 || (uint64_t)size > len - pos) {
            if (hold(c, data + pos, len - pos, size > ARENA_BYTES ? (size_t)size : len - pos) != 0)
                return -1;
            break;
        }
        out += reply_to(c, data + pos, header_len, payload_len, replies + out);
        pos += (size_t)size;
    }
    return out ? send_or_keep(fd, replies, out) : 0;
}

/* A frame that is larger than the arena: unmasked where it was collected, and sent from there. */
static int echo_large(int fd)
{
    struct conn *c = &table[fd];
    uint8_t *frame = c->held;
    uint32_t len = c->held_len;
    size_t header_len = 0;
    uint64_t payload_len = 0;
    uint8_t reply_header[10], key[4];
    frame_size(frame, len, &header_len, &payload_len);
    c->held = NULL;
    c->held_len = c->held_cap = 0;

    memcpy(key, frame + header_len - 4, 4);
    xor_in_place(frame + header_len, payload_len, key);
    size_t reply_header_len = put_header(reply_header, frame[0], payload_len);
    size_t pos = header_len - reply_header_len;
    memcpy(frame + pos, reply_header, reply_header_len);

    ssize_t sent = send(fd, frame + pos, len - pos, MSG_NOSIGNAL);
    if (sent < 0 && errno == EAGAIN)
        sent = 0;
    if (sent < 0 || (size_t)sent == len - pos) {
        free(frame);
        return sent < 0 ? -1 : 0;
    }
    c->pending = frame;
    c->pending_pos = (uint32_t)(pos + (size_t)sent);
    c->pending_len = len;
    watch(fd, EPOLLOUT);
    return 0;
}

static int upgrade(int fd, uint8_t *data, size_t len)
{
    struct conn *c = &table[fd];
    data[len] = '\0';
    char *head = (char *)data;
    char *end = strstr(head, "\r\n\r\n");
    if (!end)
        return len > MAX_HEAD_BYTES ? -1 : hold(c, data, len, len);

    size_t key_len;
    const char *key = header_value(head, "Sec-WebSocket-Key", &key_len);
    if (!key || key_len != WS_KEY_CHARS)
        return -1;
    char accept[WS_ACCEPT_CHARS + 1];
    char response[256];
    accept_of_key(key, accept);
    int n = snprintf(response, sizeof response,
                     "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                     "Sec-WebSocket-Accept: %s\r\n\r\n",
                     accept);
    if (send(fd, response, (size_t)n, MSG_NOSIGNAL) != n)
        return -1;
    c->upgraded = true;
    size_t behind = len - (size_t)(end + 4 - head);
    return behind ? echo_frames(fd, (uint8_t *)end + 4, behind) : 0;
}

static int readable(int fd)
{
    struct conn *c = &table[fd];
    if (c->held_cap > ARENA_BYTES) {
        ssize_t got = recv(fd, c->held + c->held_len, c->held_cap - c->held_len, 0);
        if (got <= 0)
            return got < 0 && errno == EAGAIN ? 0 : -1;
        c->held_len += (uint32_t)got;
        return c->held_len == c->held_cap ? echo_large(fd) : 0;
    }

    size_t len = c->held_len;
    if (len) {
        memcpy(arena, c->held, len);
        free(c->held);
        c->held = NULL;
        c->held_len = c->held_cap = 0;
    }
    ssize_t got = recv(fd, arena + len, ARENA_BYTES - len, 0);
    if (got < 0 && errno == EAGAIN)
        return len ? hold(c, arena, len, len) : 0;
    if (got <= 0)
        return -1;
    len += (size_t)got;
    return c->upgraded ? echo_frames(fd, arena, len) : upgrade(fd, arena, len);
}

static int writable(int fd)
{
    struct conn *c = &table[fd];
    ssize_t sent = send(fd, c->pending + c->pending_pos, c->pending_len - c->pending_pos, MSG_NOSIGNAL);
    if (sent < 0)
        return errno == EAGAIN ? 0 : -1;
    c->pending_pos += (uint32_t)sent;
    if (c->pending_pos < c->pending_len)
        return 0;
    free(c->pending);
    c->pending = NULL;
    c->pending_len = c->pending_pos = 0;
    if (c->closing)
        return -1;
    watch(fd, EPOLLIN);
    return 0;
}

static void accept_all(int listener)
{
    int fd;
    while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
        struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};
        if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &event) != 0)
            die("epoll_ctl");
    }
    if (errno != EAGAIN && errno != ECONNABORTED)
        die("accept4");
}

static int listen_on(uint16_t port)
{
    int one = 1;
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};
    socklen_t size = sizeof address;
    if (listener < 0)
        die("socket");
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    /* Accepted sockets inherit it: no system call per connection. */
    setsockopt(listener, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (bind(listener, (struct sockaddr *)&address, sizeof address) != 0 || listen(listener, 4096) != 0)
        die("listen");
    if (getsockname(listener, (struct sockaddr *)&address, &size) != 0)
        die("getsockname");
    printf("%d\n", ntohs(address.sin_port));
    fflush(stdout);
    return listener;
}

int main(int argc, char **argv)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) != 0)
        die("getrlimit");
    limit.rlim_cur = limit.rlim_max < MAX_FDS ? limit.rlim_max : MAX_FDS;
    if (setrlimit(RLIMIT_NOFILE, &limit) != 0)
        die("setrlimit");

    /* Large frames come again and again: their memory is not to be mapped and cleared for each of them. */
    mallopt(M_MMAP_THRESHOLD, 32 << 20);
    mallopt(M_TRIM_THRESHOLD, 256 << 20);
    /* NORESERVE: a slot that was never used costs address space only. */
    table = mmap(NULL, (size_t)limit.rlim_cur * sizeof *table, PROT_READ | PROT_WRITE,
                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (table == MAP_FAILED)
        die("mmap");
    epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    if (epoll_fd < 0)
        die("epoll_create1");
    int listener = listen_on(argc > 1 ? (uint16_t)atoi(argv[1]) : 0);
    struct epoll_event event = {.events = EPOLLIN, .data.fd = listener};
    if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, listener, &event) != 0)
        die("epoll_ctl");

    static struct epoll_event events[EVENTS];
    for (;;) {
        int count = epoll_wait(epoll_fd, events, EVENTS, -1);
        if (count < 0 && errno != EINTR)
            die("epoll_wait");
        for (int i = 0; i < count; i++) {
            int fd = events[i].data.fd;
            if (fd == listener) {
                accept_all(listener);
                continue;
            }
            if ((table[fd].pending ? writable(fd) : readable(fd)) != 0)
                drop(fd);
        }
    }
}
