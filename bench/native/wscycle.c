/* The client that comes and goes: connections that live for a moment, each in one of so many ways, --at-once side by
 * side.
 *
 *     wscycle --port N --cycles N [options; see usage()]
 *
 * Every second cycle is a whole life: handshake, a message and its echo, close frames, the server's FIN. The others end
 * somewhere on the way to there, in turn:
 *     connected and closed                      in the middle of a frame, RST
 *     connected, RST                            open, and closed without a close frame
 *     in the middle of the request, RST         a message sent, RST without waiting for its echo
 *     the request sent, RST                     close frame sent, RST without waiting for the server's
 * Half of the whole lives end with RST when all has been said, so that there is TIME_WAIT on either side and on none.
 *
 * Prints one line of JSON: how many of each there were. Exits 1 if a handshake failed, an echo or a close frame was not
 * what it should be, or nothing happened for 30 s.
 */
#define _GNU_SOURCE
#include <getopt.h>
#include <sys/epoll.h>

#include "wsclient.h"

#define EVENTS 256
#define PATIENCE_MS 30000
#define ADDRESSES 250
#define ECHO_BYTES 20u
#define FRAME_BYTES (6 + ECHO_BYTES)
#define REPLY_BYTES (2 + ECHO_BYTES)
#define CLOSE_BYTES 8
#define CLOSE_REPLY_BYTES 4

enum way { WHOLE, CLOSED, RESET, HALF_REQUEST, REQUEST, HALF_FRAME, UNSAID, UNANSWERED, HALF_CLOSE, WAYS };
static const char *const way_names[WAYS] = {"whole",      "closed", "reset",      "half_request", "request",
                                            "half_frame", "unsaid", "unanswered", "half_close"};

enum state { CONNECTING, UPGRADING, ECHOING, CLOSING, ENDING };

struct conn {
    int fd;
    uint8_t state;
    uint8_t way;
    bool reset_last;
    uint32_t number;
    uint32_t got_len;
    uint8_t got[64];
    struct handshake handshake;
};

static struct {
    const char *host;
    int port;
    int at_once;
    uint32_t cycles;
} opt = {.host = "127.0.0.1", .at_once = 64, .cycles = 1000};

static int epoll_fd, now_open;
static uint32_t begun, done[WAYS];

static void begin(struct conn *c)
{
    c->number = begun++;
    c->way = c->number % 2 == 0 ? WHOLE : CLOSED + c->number / 2 % (WAYS - 1);
    c->reset_last = c->number % 4 == 0;
    c->got_len = 0;
    c->state = CONNECTING;
    c->fd = dial(opt.host, opt.port, (int)(c->number % ADDRESSES), ADDRESSES);
    if (c->fd < 0)
        give_up("cycle %u: %s", c->number, strerror(errno));
    struct epoll_event event = {.events = EPOLLOUT, .data.ptr = c};
    if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, c->fd, &event) != 0)
        die("epoll_ctl");
    now_open++;
}

static void over(struct conn *c, bool reset)
{
    struct linger linger = {.l_onoff = reset, .l_linger = 0};
    setsockopt(c->fd, SOL_SOCKET, SO_LINGER, &linger, sizeof linger);
    close(c->fd);
    done[c->way]++;
    now_open--;
    if (begun < opt.cycles)
        begin(c);
}

static void say(struct conn *c, const void *data, size_t len)
{
    /* Into an empty buffer: all of it is taken, or the connection is over. */
    if (send(c->fd, data, len, MSG_NOSIGNAL) != (ssize_t)len)
        give_up("cycle %u, %s: %s", c->number, way_names[c->way], strerror(errno));
}

static void message_of(const struct conn *c, uint8_t out[ECHO_BYTES])
{
    memset(out, 'm', ECHO_BYTES);
    memcpy(out, &c->number, sizeof c->number);
}

static void say_message(struct conn *c, size_t len)
{
    uint8_t frame[FRAME_BYTES] = {0x80 | OP_BINARY, 0x80 | ECHO_BYTES, 1, 2, 3, 4}, message[ECHO_BYTES];
    message_of(c, message);
    xor_copy(frame + 6, message, ECHO_BYTES, frame + 2);
    say(c, frame, len);
}

static void say_close(struct conn *c)
{
    static const uint8_t frame[CLOSE_BYTES] = {0x80 | OP_CLOSE, 0x82, 0, 0, 0, 0, 1000 >> 8, 1000 & 255};
    say(c, frame, sizeof frame);
}

static void connected(struct conn *c)
{
    int error = 0;
    socklen_t size = sizeof error;
    getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &size);
    if (error)
        give_up("cycle %u: %s", c->number, strerror(error));
    if (c->way == CLOSED || c->way == RESET) {
        over(c, c->way == RESET);
        return;
    }
    if (c->way == HALF_REQUEST) {
        static const char half[] = "GET / HTTP/1.1\r\nHost: somewhere\r\nUpgrade: websocket\r\nConnec";
        say(c, half, sizeof half - 1);
        over(c, true);
        return;
    }
    const char *wrong = send_request(c->fd, &c->handshake, opt.host, opt.port, "/");
    if (wrong)
        give_up("cycle %u: %s", c->number, wrong);
    if (c->way == REQUEST) {
        over(c, true);
        return;
    }
    c->state = UPGRADING;
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = c};
    if (epoll_ctl(epoll_fd, EPOLL_CTL_MOD, c->fd, &event) != 0)
        die("epoll_ctl");
}

static void upgrading(struct conn *c)
{
    bool upgraded;
    const char *wrong = read_response(c->fd, &c->handshake, &upgraded);
    if (wrong)
        give_up("cycle %u, %s: %s", c->number, way_names[c->way], wrong);
    if (!upgraded)
        return;
    if (c->handshake.len != c->handshake.head_len)
        give_up("cycle %u: frames before anything was said", c->number);
    switch (c->way) {
    case UNSAID:
        over(c, false);
        return;
    case HALF_FRAME:
        say_message(c, 1 + c->number / 16 % (FRAME_BYTES - 1));
        over(c, true);
        return;
    case UNANSWERED:
        say_message(c, FRAME_BYTES);
        over(c, true);
        return;
    case HALF_CLOSE:
        say_close(c);
        over(c, true);
        return;
    default:
        say_message(c, FRAME_BYTES);
        c->state = ECHOING;
    }
}

static void conversing(struct conn *c)
{
    ssize_t n = recv(c->fd, c->got + c->got_len, sizeof c->got - c->got_len, 0);
    if (n < 0 && errno == EAGAIN)
        return;
    if (n < 0)
        give_up("cycle %u: %s", c->number, strerror(errno));
    c->got_len += (uint32_t)n;
    if (c->state == ECHOING && c->got_len >= REPLY_BYTES) {
        uint8_t expected[REPLY_BYTES] = {0x80 | OP_BINARY, ECHO_BYTES};
        message_of(c, expected + 2);
        if (c->got_len != REPLY_BYTES || memcmp(c->got, expected, REPLY_BYTES) != 0)
            give_up("cycle %u: not its echo", c->number);
        say_close(c);
        c->got_len = 0;
        c->state = CLOSING;
        return;
    }
    if (c->state == CLOSING && c->got_len >= CLOSE_REPLY_BYTES) {
        static const uint8_t expected[CLOSE_REPLY_BYTES] = {0x80 | OP_CLOSE, 2, 1000 >> 8, 1000 & 255};
        if (c->got_len != CLOSE_REPLY_BYTES || memcmp(c->got, expected, CLOSE_REPLY_BYTES) != 0)
            give_up("cycle %u: not the answer to its close frame", c->number);
        c->state = ENDING;
        if (n == 0)
            over(c, c->reset_last);
        return;
    }
    if (n == 0) {
        if (c->state != ENDING)
            give_up("cycle %u: the end of the stream before %s", c->number, c->state == ECHOING ? "the echo" : "a close frame");
        over(c, c->reset_last);
    } else if (c->state == ENDING) {
        give_up("cycle %u: bytes behind the close frame", c->number);
    }
}

static _Noreturn void usage(void)
{
    fprintf(stderr,
            "usage: wscycle --port N --cycles N [options]\n"
            "  --at-once N         (default 64)\n"
            "The server listens on all of 127.0.1.1 to 127.0.1.%d: to one address there are too few ports.\n",
            ADDRESSES);
    exit(2);
}

int main(int argc, char **argv)
{
    static const struct option options[] = {
        {"port", required_argument, NULL, 'p'},
        {"cycles", required_argument, NULL, 'n'},
        {"at-once", required_argument, NULL, 'a'},
        {NULL, 0, NULL, 0},
    };
    int key;
    while ((key = getopt_long(argc, argv, "", options, NULL)) != -1) {
        switch (key) {
        case 'p': opt.port = (int)number(optarg, 1, 65535); break;
        case 'n': opt.cycles = (uint32_t)number(optarg, 1, 4e9); break;
        case 'a': opt.at_once = (int)number(optarg, 1, 10000); break;
        default: usage();
        }
    }
    if (optind < argc || !opt.port)
        usage();
    raise_nofile_limit();
    struct conn *conns = calloc((size_t)opt.at_once, sizeof *conns);
    epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    if (!conns || epoll_fd < 0)
        die("start");
    double start = now_s();
    for (int i = 0; i < opt.at_once && begun < opt.cycles; i++)
        begin(&conns[i]);
    while (now_open) {
        struct epoll_event events[EVENTS];
        int count = epoll_wait(epoll_fd, events, EVENTS, PATIENCE_MS);
        if (count < 0 && errno != EINTR)
            die("epoll_wait");
        if (count == 0)
            give_up("nothing has happened for %d s, with %d connections open", PATIENCE_MS / 1000, now_open);
        for (int i = 0; i < count; i++) {
            struct conn *c = events[i].data.ptr;
            if (c->state == CONNECTING)
                connected(c);
            else if (c->state == UPGRADING)
                upgrading(c);
            else
                conversing(c);
        }
    }
    printf("{\"cycles\": %u, \"seconds\": %.3f", begun, now_s() - start);
    for (int way = 0; way < WAYS; way++)
        printf(", \"%s\": %u", way_names[way], done[way]);
    printf(", \"error\": \"\"}\n");
    return 0;
}
