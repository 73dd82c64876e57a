/* The client that floods: connections that send the same bytes over and over, and tell how the server ended them.
 *
 *     wsflood --port N --unit FILE --repeat N [options; see usage()]
 *
 * Each connection sends --first once, --unit --repeat times, --last once, and then waits for the server to end it. It
 * reads meanwhile, unless it is --deaf, and counts what comes: pongs, messages, close frames by their code. When one
 * has ended the next begins, --at-once side by side, until there were --connections; --together, all of them are opened
 * before the first one sends.
 *
 * Prints one line of JSON at the end. Exits 1 if a handshake failed, a frame of the server was malformed, or nothing
 * happened for 30 s.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <getopt.h>
#include <stddef.h>
#include <sys/epoll.h>

#include "wsclient.h"

#define EVENTS 256
#define BLOCK_BYTES (256 << 10) /* what is sent in one go, in whole units where they are short */
#define RECEIVE_BYTES (256 << 10)
#define PATIENCE_MS 30000
#define CLOSE_CODES 5000
#define NO_CODE 1005
#define ADDRESSES 200
#define CONNECTING_AT_ONCE 256 /* below any backlog: a SYN that is lost there comes again after a second */

enum state { CONNECTING, UPGRADING, FLOODING };

struct conn {
    int fd;
    uint8_t state;
    bool wants_out;
    bool closed;           /* a close frame has come */
    uint64_t sent;         /* bytes behind the handshake; all of them once there is no use in more */
    uint64_t taken;        /* of these the kernel's */
    uint64_t skip;         /* payload of a frame that is still to come, and of no interest */
    uint8_t rest[16];      /* of a header, and of a close frame's code */
    uint32_t rest_len;
    struct handshake *handshake;
};

static struct {
    const char *host;
    int port;
    const char *request_field;
    int connections;
    int at_once;
    uint64_t repeat;
    bool deaf;
    bool together;
    bool reset;
} opt = {.host = "127.0.0.1", .connections = 1, .at_once = 1, .repeat = 1};

static struct bytes {
    uint8_t *data;
    size_t len;
} first, unit, last, block;

static struct conn *conns;
static int epoll_fd, begun, ended, now_open, connecting, upgrades;
static uint64_t units_bytes, all_bytes;
static uint64_t units_sent, sent_bytes, received_bytes, pongs, messages, resets, ends, unasked;
static uint32_t codes[CLOSE_CODES];
static uint8_t buffer[RECEIVE_BYTES];

static struct bytes file_of(const char *path)
{
    struct bytes b = {NULL, 0};
    FILE *file = fopen(path, "rb");
    if (!file || fseek(file, 0, SEEK_END) != 0)
        die(path);
    long len = ftell(file);
    rewind(file);
    b.len = (size_t)len;
    b.data = malloc(b.len + 1);
    if (len < 0 || !b.data || fread(b.data, 1, b.len, file) != b.len)
        die(path);
    fclose(file);
    return b;
}

static void want(struct conn *c, bool out)
{
    struct epoll_event event = {.events = (c->state == FLOODING && opt.deaf && out ? 0 : EPOLLIN) | (out ? EPOLLOUT : 0),
                                .data.ptr = c};
    c->wants_out = out;
    if (epoll_ctl(epoll_fd, EPOLL_CTL_MOD, c->fd, &event) != 0)
        die("epoll_ctl");
}

static void begin(struct conn *c)
{
    memset(c, 0, offsetof(struct conn, handshake));
    c->fd = dial(opt.host, opt.port, begun++, ADDRESSES);
    if (c->fd < 0)
        give_up("connection %d: %s", begun - 1, strerror(errno));
    if (!opt.reset) {
        /* Whoever closes first keeps TIME_WAIT, and that is the server. */
        struct linger linger = {0};
        setsockopt(c->fd, SOL_SOCKET, SO_LINGER, &linger, sizeof linger);
    }
    c->state = CONNECTING;
    connecting++;
    struct epoll_event event = {.events = EPOLLOUT, .data.ptr = c};
    if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, c->fd, &event) != 0)
        die("epoll_ctl");
    now_open++;
}

static void end(struct conn *c, int error)
{
    if (error)
        resets++;
    else
        ends++;
    if (!c->closed)
        unasked++;
    uint64_t of_units = c->taken > first.len ? c->taken - first.len : 0;
    units_sent += (of_units < units_bytes ? of_units : units_bytes) / unit.len;
    close(c->fd);
    c->fd = -1;
    now_open--;
    ended++;
    if (begun < opt.connections)
        begin(c);
}

/* The bytes at offset `at` of what a connection sends. */
static struct bytes piece(uint64_t at)
{
    if (at < first.len)
        return (struct bytes){first.data + at, first.len - at};
    at -= first.len;
    if (at < units_bytes) {
        size_t offset = (size_t)(at % block.len), len = block.len - offset;
        return (struct bytes){block.data + offset, len < units_bytes - at ? len : (size_t)(units_bytes - at)};
    }
    at -= units_bytes;
    return (struct bytes){last.data + at, last.len - at};
}

static void flood(struct conn *c)
{
    if (c->sent < all_bytes) {
        struct bytes p = piece(c->sent);
        ssize_t n = send(c->fd, p.data, p.len, MSG_NOSIGNAL);
        if (n < 0 && errno != EAGAIN) {
            /* What the server said before is still to be read, unless it was RST that overtook it. */
            if (errno == EPIPE) {
                c->sent = all_bytes;
            } else {
                end(c, errno);
                return;
            }
        }
        if (n > 0) {
            c->sent += (uint64_t)n;
            c->taken += (uint64_t)n;
            sent_bytes += (uint64_t)n;
        }
    }
    if (c->wants_out != (c->sent < all_bytes))
        want(c, c->sent < all_bytes);
}

static void got_frame(struct conn *c, const uint8_t *header, uint64_t len)
{
    uint8_t opcode = header[0] & 15;
    if (opcode == OP_PONG) {
        pongs++;
    } else if (opcode == OP_TEXT || opcode == OP_BINARY) {
        messages++;
    } else if (opcode == OP_CLOSE) {
        if (c->closed)
            give_up("a second close frame");
        c->closed = true;
        size_t size = header_size(header, 2);
        unsigned code = len < 2 ? NO_CODE : (unsigned)header[size] << 8 | header[size + 1];
        codes[code < CLOSE_CODES ? code : 0]++;
        /* The server is not to hear more of the flood: what it answers is what is looked at. */
        c->sent = all_bytes;
    }
    if (c->closed && opcode != OP_CLOSE)
        give_up("a frame behind the close frame");
}

static void got(struct conn *c, const uint8_t *data, size_t len)
{
    received_bytes += len;
    while (len) {
        if (c->skip) {
            size_t n = c->skip < len ? (size_t)c->skip : len;
            c->skip -= n;
            data += n;
            len -= n;
            continue;
        }
        c->rest[c->rest_len++] = *data++;
        len--;
        if (c->rest_len < 2)
            continue;
        if (c->rest[1] & 0x80 || (c->rest[0] & 0x70))
            give_up("a frame of the server begins with %02x %02x", c->rest[0], c->rest[1]);
        size_t size = header_size(c->rest, c->rest_len);
        if (c->rest_len < size)
            continue;
        uint64_t payload = header_payload(c->rest);
        size_t code = (c->rest[0] & 15) == OP_CLOSE && payload >= 2 ? 2 : 0;
        if (c->rest_len < size + code)
            continue;
        got_frame(c, c->rest, payload);
        c->skip = payload - code;
        c->rest_len = 0;
    }
}

static void readable(struct conn *c)
{
    ssize_t n = recv(c->fd, buffer, sizeof buffer, 0);
    if (n > 0)
        got(c, buffer, (size_t)n);
    else if (n == 0 || errno != EAGAIN)
        end(c, n == 0 ? 0 : errno);
}

static void handshake(struct conn *c)
{
    if (c->state == CONNECTING) {
        const char *error = send_request_with(c->fd, c->handshake, opt.host, opt.port, "/", opt.request_field);
        if (error)
            give_up("connection %d of %d: %s", begun, opt.connections, error);
        c->state = UPGRADING;
        want(c, false);
        return;
    }
    bool upgraded;
    const char *error = read_response(c->fd, c->handshake, &upgraded);
    if (error)
        give_up("connection %d of %d: %s", begun, opt.connections, error);
    if (!upgraded)
        return;
    c->state = FLOODING;
    connecting--;
    upgrades++;
    want(c, !opt.together);
    if (opt.together && upgrades == opt.connections)
        for (int i = 0; i < opt.connections; i++)
            want(&conns[i], true);
    if (c->handshake->len > c->handshake->head_len)
        got(c, (uint8_t *)c->handshake->head + c->handshake->head_len, c->handshake->len - c->handshake->head_len);
}

static _Noreturn void usage(void)
{
    fprintf(stderr,
            "usage: wsflood --port N --unit FILE [options]\n"
            "  --host A            IPv4 address; only with one that is no loopback's\n"
            "  --connections N     in all (default 1)\n"
            "  --at-once N         (default 1)\n"
            "  --first FILE        sent once, behind the handshake\n"
            "  --unit FILE         sent --repeat times\n"
            "  --repeat N          (default 1)\n"
            "  --last FILE         sent once, at the end: a close frame, say\n"
            "  --field TEXT        of the request: an offer of permessage-deflate, say\n"
            "  --together          open all before the first one sends\n"
            "  --deaf              read nothing while there is something to send\n"
            "  --reset             end with RST\n");
    exit(2);
}

static void parse_options(int argc, char **argv)
{
    static const struct option options[] = {
        {"host", required_argument, NULL, 'h'},  {"port", required_argument, NULL, 'p'},
        {"first", required_argument, NULL, 'f'}, {"unit", required_argument, NULL, 'u'},
        {"last", required_argument, NULL, 'l'},  {"repeat", required_argument, NULL, 'n'},
        {"field", required_argument, NULL, 'F'}, {"connections", required_argument, NULL, 'c'},
        {"deaf", no_argument, NULL, 'd'},        {"at-once", required_argument, NULL, 'a'},
        {"reset", no_argument, NULL, 'r'},       {"together", no_argument, NULL, 't'},
        {NULL, 0, NULL, 0},
    };
    int key;
    while ((key = getopt_long(argc, argv, "", options, NULL)) != -1) {
        switch (key) {
        case 'h': opt.host = optarg; break;
        case 'p': opt.port = (int)number(optarg, 1, 65535); break;
        case 'f': first = file_of(optarg); break;
        case 'u': unit = file_of(optarg); break;
        case 'l': last = file_of(optarg); break;
        case 'n': opt.repeat = (uint64_t)number(optarg, 0, 1e12); break;
        case 'F': opt.request_field = optarg; break;
        case 'c': opt.connections = (int)number(optarg, 1, 1e7); break;
        case 'a': opt.at_once = (int)number(optarg, 1, 1e6); break;
        case 'd': opt.deaf = true; break;
        case 'r': opt.reset = true; break;
        case 't': opt.together = true; break;
        default: usage();
        }
    }
    if (optind < argc || !opt.port || !unit.len)
        usage();
}

static void make_block(void)
{
    size_t count = unit.len < BLOCK_BYTES ? BLOCK_BYTES / unit.len : 1;
    if (count > opt.repeat)
        count = opt.repeat ? (size_t)opt.repeat : 1;
    block.len = count * unit.len;
    block.data = malloc(block.len);
    if (!block.data)
        die("malloc");
    for (size_t i = 0; i < count; i++)
        memcpy(block.data + i * unit.len, unit.data, unit.len);
    units_bytes = unit.len * opt.repeat;
    all_bytes = first.len + units_bytes + last.len;
}

int main(int argc, char **argv)
{
    parse_options(argc, argv);
    raise_nofile_limit();
    make_block();
    if (opt.at_once > opt.connections || opt.together)
        opt.at_once = opt.connections;
    conns = calloc((size_t)opt.at_once, sizeof *conns);
    epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    if (!conns || epoll_fd < 0)
        die("start");
    double start = now_s();
    for (int i = 0; i < opt.at_once; i++) {
        conns[i].handshake = malloc(sizeof *conns[i].handshake);
        if (!conns[i].handshake)
            die("malloc");
    }
    for (int i = 0; now_open || i < opt.at_once;) {
        while (i < opt.at_once && connecting < CONNECTING_AT_ONCE)
            begin(&conns[i++]);
        struct epoll_event events[EVENTS];
        int count = epoll_wait(epoll_fd, events, EVENTS, PATIENCE_MS);
        if (count < 0 && errno != EINTR)
            die("epoll_wait");
        if (count == 0)
            give_up("nothing has happened for %d s: %d of %d connections are over", PATIENCE_MS / 1000, ended,
                 opt.connections);
        for (int i = 0; i < count; i++) {
            struct conn *c = events[i].data.ptr;
            int fd = c->fd;
            if (c->state != FLOODING)
                handshake(c);
            else {
                if (events[i].events & (EPOLLIN | EPOLLERR | EPOLLHUP))
                    readable(c);
                if (c->fd == fd && c->state == FLOODING && c->wants_out)
                    flood(c);
            }
        }
    }
    printf("{\"connections\": %d, \"units\": %llu, \"bytes\": %llu, \"received_bytes\": %llu, \"seconds\": %.3f, "
           "\"pongs\": %llu, \"messages\": %llu, \"resets\": %llu, \"ends\": %llu, \"unasked\": %llu, \"codes\": {",
           ended, (unsigned long long)units_sent, (unsigned long long)sent_bytes,
           (unsigned long long)received_bytes, now_s() - start, (unsigned long long)pongs,
           (unsigned long long)messages, (unsigned long long)resets, (unsigned long long)ends,
           (unsigned long long)unasked);
    const char *comma = "";
    for (int code = 0; code < CLOSE_CODES; code++)
        if (codes[code]) {
            printf("%s\"%d\": %u", comma, code, codes[code]);
            comma = ", ";
        }
    printf("}, \"error\": \"\"}\n");
    return 0;
}
