/* The load client: one epoll thread, real handshakes, masked frames, every reply checked in length and content.
 *
 *     wsload --port N [--mode echo|handshakes|idle] [options; see usage()]
 *
 * echo: closed loop. Each connection keeps --outstanding messages under way; a reply is the permission for the next.
 *     Beside them --silent more are open, on which nothing happens.
 * handshakes: --connections at once; whoever is upgraded leaves with RST, and another one comes in his place.
 * idle: opens the connections, holds them, sends one message on each, holds them again; reads the server's memory.
 *
 * Prints one line of JSON. Exits 1 if a connection failed, was lost, or got a wrong reply.
 */
#define _GNU_SOURCE
#include <getopt.h>
#include <stdarg.h>
#include <sys/epoll.h>

#include "wsclient.h"

#define RECEIVE_BYTES (256 << 10)
#define EVENTS 1024
#define RING_BYTES (4u << 20)   /* of prepared frames; a power of two of them, at least two */
#define RING_FRAMES 256u
#define CONNECTING_AT_ONCE 64   /* more would only queue in the server's backlog */
#define TOUCHING_AT_ONCE 256    /* idle mode: messages under way while every connection gets one */
#define OPEN_TIMEOUT_S 120.0
#define CLOSE_TIMEOUT_S 5.0

enum state { CONNECTING, UPGRADING, OPEN, CLOSING, GONE };
enum mode { ECHO, HANDSHAKES, IDLE };

struct conn {
    int fd;
    uint8_t state;
    bool want_out;          /* EPOLLOUT is asked for */
    bool in_message;        /* the reply came in fragments, and its last one has not come yet */
    uint8_t header[10];     /* of the reply being read */
    uint8_t header_len;
    uint8_t control_len;    /* bytes of a control frame's payload in `control` */
    uint8_t *control;       /* made when a control frame arrives, which is seldom */
    uint32_t send_frame;    /* ring index of the frame being sent, and how far it is */
    uint32_t send_pos;
    uint32_t to_send;       /* frames, that one included */
    uint32_t expect_frame;  /* ring index of the message whose reply is awaited */
    uint32_t message_pos;   /* bytes of it that have arrived */
    uint64_t payload_left;  /* of the reply's current frame */
    struct handshake *handshake;    /* until it is over */
};

static struct {
    const char *host;
    const char *path;
    int port;
    int addresses;
    int connections;
    int silent;
    int outstanding;
    uint32_t size;
    uint8_t opcode;
    enum mode mode;
    double seconds;
    double warmup;
    double hold;
    int server_pid;
} opt = {
    .host = "127.0.0.1",
    .path = "/",
    .connections = 100,
    .outstanding = 1,
    .size = 32,
    .opcode = OP_BINARY,
    .seconds = 1.5,
    .warmup = 0.3,
    .hold = 1.0,
};

static int epoll_fd;
static struct conn *conns;
static uint8_t receive_buffer[RECEIVE_BYTES];

/* Messages differ from their neighbours, in payload and in mask, so that a reply which is late, lost, doubled
 * or somebody else's is found. They lie end to end, so that several leave in one send. */
static uint8_t *ring_frames;
static uint8_t *ring_payloads;
static uint32_t ring_count;
static uint32_t frame_bytes;

static int started, open_now, lost, closing;
static bool echoing;        /* a reply is the permission for the next message */
static bool leaving;        /* handshakes: nobody comes in the place of who is upgraded */
static uint64_t queued, replies, bad_replies, upgraded_count;
static char first_error[160];

__attribute__((format(printf, 1, 2))) static void note_error(const char *format, ...)
{
    if (first_error[0])
        return;
    va_list args;
    va_start(args, format);
    vsnprintf(first_error, sizeof first_error, format, args);
    va_end(args);
    make_quotable(first_error);
}

/* --- what the processes used --- */

/* Resident kilobytes. smaps_rollup walks the page tables; VmRSS is a per-CPU counter that may be off by more
 * than what 10,000 idle connections of ours take. */
static long process_rss_kb(int pid)
{
    char path[64];
    char line[256];
    long rss = -1;
    snprintf(path, sizeof path, "/proc/%d/smaps_rollup", pid);
    FILE *file = fopen(path, "r");
    if (!file)
        die(path);
    while (fgets(line, sizeof line, file))
        if (sscanf(line, "Rss: %ld kB", &rss) == 1)
            break;
    fclose(file);
    if (rss < 0) {
        fprintf(stderr, "no Rss in %s\n", path);
        exit(1);
    }
    return rss;
}

/* --- frames --- */

static void prepare_ring(void)
{
    uint8_t header[14];
    size_t header_len = put_header(header, 0x80 | opt.opcode, opt.size);
    header[1] |= 0x80;
    frame_bytes = (uint32_t)header_len + 4 + opt.size;
    for (ring_count = RING_FRAMES; ring_count > 2 && (uint64_t)ring_count * frame_bytes > RING_BYTES;)
        ring_count /= 2;
    ring_frames = malloc((size_t)ring_count * frame_bytes);
    ring_payloads = malloc((size_t)ring_count * opt.size + 1);
    if (!ring_frames || !ring_payloads)
        die("malloc");

    random_bytes(ring_payloads, (size_t)ring_count * opt.size);
    if (opt.opcode == OP_TEXT)
        for (size_t i = 0; i < (size_t)ring_count * opt.size; i++)
            ring_payloads[i] = (uint8_t)(' ' + ring_payloads[i] % 95);
    for (uint32_t i = 0; i < ring_count; i++) {
        uint8_t *frame = ring_frames + (size_t)i * frame_bytes;
        uint8_t *key = frame + header_len;
        memcpy(frame, header, header_len);
        random_bytes(key, 4);
        xor_copy(key + 4, ring_payloads + (size_t)i * opt.size, opt.size, key);
    }
}

static void lose(struct conn *c, const char *why)
{
    if (c->state == GONE)
        return;
    if (c->state == OPEN)
        open_now--;
    note_error("connection %d: %s", (int)(c - conns), why);
    lost++;
    c->state = GONE;
    if (c->fd >= 0)
        close(c->fd);
    free(c->handshake);
    c->handshake = NULL;
    free(c->control);
    c->control = NULL;
}

static void watch(struct conn *c, bool out)
{
    if (c->want_out == out)
        return;
    struct epoll_event event = {.events = EPOLLIN | (out ? EPOLLOUT : 0), .data.ptr = c};
    if (epoll_ctl(epoll_fd, EPOLL_CTL_MOD, c->fd, &event) != 0)
        die("epoll_ctl");
    c->want_out = out;
}

static void send_messages(struct conn *c)
{
    while (c->to_send) {
        uint32_t run = ring_count - c->send_frame;
        if (run > c->to_send)
            run = c->to_send;
        size_t len = (size_t)run * frame_bytes - c->send_pos;
        ssize_t sent = send(c->fd, ring_frames + (size_t)c->send_frame * frame_bytes + c->send_pos, len, MSG_NOSIGNAL);
        if (sent < 0) {
            if (errno == EAGAIN)
                break;
            lose(c, strerror(errno));
            return;
        }
        uint64_t reached = c->send_pos + (uint64_t)sent;
        uint32_t whole = (uint32_t)(reached / frame_bytes);
        c->send_pos = (uint32_t)(reached % frame_bytes);
        c->send_frame = (c->send_frame + whole) & (ring_count - 1);
        c->to_send -= whole;
        if ((size_t)sent < len)
            break;
    }
    watch(c, c->to_send != 0);
}

static void queue_messages(struct conn *c, uint32_t count)
{
    bool was_empty = c->to_send == 0;
    c->to_send += count;
    queued += count;
    if (was_empty)
        send_messages(c);
}

static void answer_control(struct conn *c, uint8_t opcode)
{
    if (opcode == OP_CLOSE) {
        lose(c, "the server sent a close frame");
        return;
    }
    if (opcode == OP_PONG)
        return;
    /* Not into the middle of a frame: the next ping will be answered, and a connection under load needs none. */
    if (c->to_send)
        return;
    uint8_t pong[2 + 4 + 125] = {0x80 | OP_PONG, 0x80 | c->control_len};
    memcpy(pong + 6, c->control, c->control_len); /* the mask is four zero bytes, which section 5.3 allows */
    if (send(c->fd, pong, 6u + c->control_len, MSG_NOSIGNAL) != 6 + c->control_len)
        lose(c, "a pong was not taken as a whole");
}

static void message_done(struct conn *c)
{
    if (c->message_pos != opt.size) {
        bad_replies++;
        note_error("a reply has %u bytes, not %u", c->message_pos, opt.size);
    }
    replies++;
    c->message_pos = 0;
    c->expect_frame = (c->expect_frame + 1) & (ring_count - 1);
}

static void check_payload(struct conn *c, const uint8_t *data, size_t len)
{
    if (len > opt.size - c->message_pos) {
        bad_replies++;
        lose(c, "a reply is longer than the message");
        return;
    }
    if (memcmp(data, ring_payloads + (size_t)c->expect_frame * opt.size + c->message_pos, len) != 0) {
        bad_replies++;
        note_error("a reply is not the message");
    }
    c->message_pos += (uint32_t)len;
}

static void header_done(struct conn *c)
{
    uint8_t opcode = c->header[0] & 0x0F;
    c->payload_left = header_payload(c->header);
    c->control_len = 0;
    if (c->header[0] & 0x70 || c->header[1] & 0x80) {
        lose(c, "a reserved bit or a mask in the reply's header");
    } else if (opcode & 0x08) {
        if (c->payload_left > 125)
            lose(c, "a control frame is longer than 125 bytes");
        else if (!c->control && !(c->control = malloc(125)))
            die("malloc");
    } else if (opcode != (c->in_message ? OP_CONT : opt.opcode)) {
        bad_replies++;
        lose(c, "a reply has the wrong opcode");
    }
}

/* Reads frames out of what one recv gave; returns how many replies were completed. */
static uint32_t read_replies(struct conn *c, const uint8_t *data, size_t len)
{
    uint32_t completed = 0;
    while (c->state == OPEN) {
        size_t need = header_size(c->header, c->header_len);
        while (c->header_len < need && len) {
            c->header[c->header_len++] = *data++;
            len--;
            need = header_size(c->header, c->header_len);
            if (c->header_len == need)
                header_done(c);
        }
        if (c->header_len < need || c->state != OPEN)
            break;

        bool control = c->header[0] & 0x08;
        size_t take = c->payload_left < len ? (size_t)c->payload_left : len;
        if (control) {
            memcpy(c->control + c->control_len, data, take);
            c->control_len += (uint8_t)take;
        } else {
            check_payload(c, data, take);
        }
        data += take;
        len -= take;
        c->payload_left -= take;
        if (c->payload_left)
            break;

        c->header_len = 0;
        if (control) {
            answer_control(c, c->header[0] & 0x0F);
            continue;
        }
        c->in_message = !(c->header[0] & 0x80);
        if (!c->in_message && c->state == OPEN) {
            message_done(c);
            completed++;
        }
    }
    return completed;
}

/* --- connections --- */

static void start(struct conn *c)
{
    int index = (int)(c - conns);
    c->state = CONNECTING;
    c->send_frame = c->expect_frame = (uint32_t)index * 7u & (ring_count - 1);
    c->handshake = malloc(sizeof *c->handshake);
    if (!c->handshake)
        die("malloc");
    c->fd = dial(opt.host, opt.port, index, opt.addresses);
    if (c->fd < 0) {
        lose(c, strerror(errno));
        return;
    }
    struct epoll_event event = {.events = EPOLLIN | EPOLLOUT, .data.ptr = c};
    if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, c->fd, &event) != 0)
        die("epoll_ctl");
    c->want_out = true;
}

static void connected(struct conn *c)
{
    const char *wrong = send_request(c->fd, c->handshake, opt.host, opt.port, opt.path);
    if (wrong) {
        lose(c, wrong);
        return;
    }
    c->state = UPGRADING;
    watch(c, false);
}

static void upgrading(struct conn *c)
{
    bool upgraded;
    const char *wrong = read_response(c->fd, c->handshake, &upgraded);
    if (wrong) {
        lose(c, wrong);
    } else if (upgraded && c->handshake->head_len != c->handshake->len) {
        lose(c, "bytes behind the handshake that nobody asked for");
    } else if (upgraded) {
        free(c->handshake);
        c->handshake = NULL;
        upgraded_count++;
        if (opt.mode == HANDSHAKES) {
            close(c->fd);
            c->state = GONE;
            if (!leaving)
                start(c);
            return;
        }
        c->state = OPEN;
        open_now++;
    }
}

static void readable(struct conn *c)
{
    ssize_t got = recv(c->fd, receive_buffer, sizeof receive_buffer, 0);
    if (got <= 0) {
        if (got < 0 && errno == EAGAIN)
            return;
        lose(c, got == 0 ? "closed by the server" : strerror(errno));
        return;
    }
    uint32_t completed = read_replies(c, receive_buffer, (size_t)got);
    if (completed && echoing && c->state == OPEN)
        queue_messages(c, completed);
}

/* Our close frame is out: whatever comes before the server's FIN is of no interest. */
static void read_to_end(struct conn *c)
{
    ssize_t got = recv(c->fd, receive_buffer, sizeof receive_buffer, 0);
    if (got > 0 || (got < 0 && errno == EAGAIN))
        return;
    closing--;
    c->state = GONE;
    close(c->fd);
}

static void turn(int timeout_ms)
{
    static struct epoll_event events[EVENTS];
    int count = epoll_wait(epoll_fd, events, EVENTS, timeout_ms);
    if (count < 0 && errno != EINTR)
        die("epoll_wait");
    for (int i = 0; i < count; i++) {
        struct conn *c = events[i].data.ptr;
        uint32_t what = events[i].events;
        if (c->state == CONNECTING) {
            connected(c);
            continue;
        }
        if (what & (EPOLLIN | EPOLLHUP | EPOLLERR)) {
            if (c->state == UPGRADING)
                upgrading(c);
            else if (c->state == OPEN)
                readable(c);
            else if (c->state == CLOSING)
                read_to_end(c);
        }
        if (what & EPOLLOUT && c->state == OPEN)
            send_messages(c);
    }
}

static void turn_for(double seconds)
{
    double end = now_s() + seconds;
    while (now_s() < end)
        turn(20);
}

/* Opens the connections up to this count. */
static void open_up_to(int count)
{
    double deadline = now_s() + OPEN_TIMEOUT_S;
    while (open_now + lost < count) {
        while (started < count && started - open_now - lost < CONNECTING_AT_ONCE)
            start(&conns[started++]);
        turn(50);
        if (now_s() > deadline) {
            note_error("%d of %d connections open after %.0f s", open_now, count, OPEN_TIMEOUT_S);
            lost = count - open_now;
        }
    }
}

/* One message on each connection from first on, a bounded number of them under way. */
static void touch_all(int first, int end)
{
    uint64_t before = replies;
    double deadline = now_s() + OPEN_TIMEOUT_S;
    int sent = 0;
    for (int i = first; replies - before + (uint64_t)lost < (uint64_t)(end - first);) {
        while (i < end && (uint64_t)sent - (replies - before) < TOUCHING_AT_ONCE) {
            if (conns[i].state == OPEN) {
                queue_messages(&conns[i], 1);
                sent++;
            }
            i++;
        }
        turn(20);
        if (now_s() > deadline) {
            note_error("%llu replies of %d after %.0f s", (unsigned long long)(replies - before), end - first,
                       OPEN_TIMEOUT_S);
            break;
        }
    }
}

/* Leaves with a close handshake: some servers log every connection that ends otherwise, and would still be at it
 * while the next sample is taken. */
static void close_all(void)
{
    static const uint8_t normal[] = {0x80 | OP_CLOSE, 0x80 | 2, 0, 0, 0, 0, 1000 >> 8, 1000 & 0xFF};
    double deadline = now_s() + CLOSE_TIMEOUT_S;

    echoing = false;
    while (replies < queued && !lost && now_s() < deadline)
        turn(5);
    for (int i = 0; i < started; i++) {
        if (conns[i].state != OPEN || conns[i].to_send)
            continue;
        if (send(conns[i].fd, normal, sizeof normal, MSG_NOSIGNAL) == sizeof normal) {
            conns[i].state = CLOSING;
            closing++;
        }
    }
    while (closing && now_s() < deadline)
        turn(20);
}

/* --- modes --- */

static int finish(void)
{
    printf(", \"open\": %d, \"lost\": %d, \"bad_replies\": %llu, \"error\": \"%s\"}\n", open_now, lost,
           (unsigned long long)bad_replies, first_error);
    fflush(stdout);
    int status = lost || bad_replies || first_error[0] ? 1 : 0;
    close_all();
    return status;
}

/* CPU seconds so far: of the machine, of this process, of the server's threads. */
struct usage {
    double machine, own, server;
    int threads;
};

static struct usage usage_now(void)
{
    int own_threads;
    struct usage u = {.machine = machine_cpu_s(), .own = process_cpu_s(getpid(), &own_threads)};
    if (opt.server_pid)
        u.server = process_cpu_s(opt.server_pid, &u.threads);
    return u;
}

/* what: the server's CPU time is told for each of them. */
static void print_usage(const struct usage *before, double elapsed, const char *what, uint64_t count)
{
    struct usage now = usage_now();
    double own = now.own - before->own, server = now.server - before->server;
    printf(", \"client_cpu\": %.3f", own / elapsed);
    if (!opt.server_pid)
        return;
    if (now.threads < before->threads)
        note_error("the server had %d threads, then %d: its CPU time is not known", before->threads, now.threads);
    printf(", \"server_cpu\": %.3f, \"server_us_per_%s\": %.4f, \"other_cpu\": %.3f, \"server_threads\": %d",
           server / elapsed, what, count ? server * 1e6 / (double)count : 0.0,
           (now.machine - before->machine - own - server) / elapsed, now.threads);
}

static int run_echo(void)
{
    long rss_before = 0, rss_after = 0;

    if (opt.server_pid)
        rss_before = process_rss_kb(opt.server_pid);
    open_up_to(opt.connections + opt.silent);
    echoing = true;
    for (int i = 0; i < opt.connections; i++)
        if (conns[i].state == OPEN)
            queue_messages(&conns[i], (uint32_t)opt.outstanding);
    turn_for(opt.warmup);

    uint64_t replies_before = replies;
    struct usage before = usage_now();
    double begin = now_s();
    double end = begin + opt.seconds;
    double now;
    /* The clock is read once per batch of events, not per message. */
    while ((now = now_s()) < end && open_now)
        turn(100);
    double elapsed = now - begin;
    uint64_t count = replies - replies_before;
    if (!count)
        note_error("no reply while it was measured");

    printf("{\"mode\": \"echo\", \"connections\": %d, \"silent\": %d, \"outstanding\": %d, \"size\": %u, "
           "\"seconds\": %.3f, \"messages\": %llu, \"messages_per_s\": %.0f",
           opt.connections, opt.silent, opt.outstanding, opt.size, elapsed, (unsigned long long)count,
           (double)count / elapsed);
    print_usage(&before, elapsed, "message", count);
    if (opt.server_pid) {
        rss_after = process_rss_kb(opt.server_pid);
        printf(", \"rss_before_kb\": %ld, \"rss_after_kb\": %ld", rss_before, rss_after);
    }
    return finish();
}

static int run_handshakes(void)
{
    for (; started < opt.connections; started++)
        start(&conns[started]);
    turn_for(opt.warmup);

    uint64_t upgraded_before = upgraded_count;
    struct usage before = usage_now();
    double begin = now_s();
    double end = begin + opt.seconds;
    double now;
    while ((now = now_s()) < end && lost < opt.connections)
        turn(100);
    double elapsed = now - begin;
    uint64_t count = upgraded_count - upgraded_before;
    if (!count)
        note_error("no handshake while it was measured");

    printf("{\"mode\": \"handshakes\", \"connections\": %d, \"seconds\": %.3f, \"handshakes\": %llu, "
           "\"handshakes_per_s\": %.0f",
           opt.connections, elapsed, (unsigned long long)count, (double)count / elapsed);
    print_usage(&before, elapsed, "handshake", count);
    leaving = true;
    return finish();
}

static int run_idle(void)
{
    /* The first connection touches code and tables that every later one shares: it is no part of what one costs. */
    open_up_to(1);
    touch_all(0, 1);
    turn_for(opt.hold);
    long rss_before = process_rss_kb(opt.server_pid);

    double begin = now_s();
    open_up_to(1 + opt.connections);
    double opening = now_s() - begin;
    turn_for(opt.hold);
    long rss_held = process_rss_kb(opt.server_pid);
    int held = open_now - 1;

    touch_all(1, 1 + opt.connections);
    turn_for(opt.hold);
    long rss_after = process_rss_kb(opt.server_pid);

    printf("{\"mode\": \"idle\", \"connections\": %d, \"held\": %d, \"open_seconds\": %.3f, \"rss_before_kb\": %ld, "
           "\"rss_held_kb\": %ld, \"rss_after_kb\": %ld, \"bytes_per_connection\": %.1f, "
           "\"bytes_per_connection_after_message\": %.1f",
           opt.connections, held, opening, rss_before, rss_held, rss_after,
           held > 0 ? (double)(rss_held - rss_before) * 1024 / held : 0.0,
           held > 0 ? (double)(rss_after - rss_before) * 1024 / held : 0.0);
    return finish();
}

static _Noreturn void usage(void)
{
    fprintf(stderr,
            "usage: wsload --port N [options]\n"
            "  --mode M            echo: closed loop; handshakes; idle: memory of held connections (default echo)\n"
            "  --host A            IPv4 address (default 127.0.0.1)\n"
            "  --path P            request target (default /)\n"
            "  --connections N     (default 100)\n"
            "  --addresses N       spread them over 127.0.1.1 to 127.0.1.N; 0: as many as needed (default 0)\n"
            "  --silent N          echo: connections beside those (default 0)\n"
            "  --outstanding N     messages under way per connection (default 1)\n"
            "  --size N            payload bytes (default 32)\n"
            "  --text              text messages instead of binary ones\n"
            "  --seconds S         measured time (default 1.5)\n"
            "  --warmup S          time before it (default 0.3)\n"
            "  --hold S            idle: wait before each reading of the memory (default 1)\n"
            "  --server-pid PID    adds the server's CPU time and memory; idle needs it\n");
    exit(2);
}

static void parse_options(int argc, char **argv)
{
    static const struct option options[] = {
        {"mode", required_argument, NULL, 'm'},        {"host", required_argument, NULL, 'H'},
        {"port", required_argument, NULL, 'p'},        {"path", required_argument, NULL, 'u'},
        {"connections", required_argument, NULL, 'c'}, {"addresses", required_argument, NULL, 'a'},
        {"silent", required_argument, NULL, 'i'},      {"outstanding", required_argument, NULL, 'o'},
        {"size", required_argument, NULL, 's'},        {"text", no_argument, NULL, 't'},
        {"seconds", required_argument, NULL, 'd'},     {"warmup", required_argument, NULL, 'w'},
        {"hold", required_argument, NULL, 'h'},        {"server-pid", required_argument, NULL, 'S'},
        {NULL, 0, NULL, 0},
    };
    int key;
    while ((key = getopt_long(argc, argv, "", options, NULL)) != -1) {
        switch (key) {
        case 'm':
            if (strcmp(optarg, "echo") == 0)
                opt.mode = ECHO;
            else if (strcmp(optarg, "handshakes") == 0)
                opt.mode = HANDSHAKES;
            else if (strcmp(optarg, "idle") == 0)
                opt.mode = IDLE;
            else
                usage();
            break;
        case 'H':
            opt.host = optarg;
            break;
        case 'p':
            opt.port = (int)number(optarg, 1, 65535);
            break;
        case 'u':
            opt.path = optarg;
            break;
        case 'c':
            opt.connections = (int)number(optarg, 1, 1e6);
            break;
        case 'a':
            opt.addresses = (int)number(optarg, 0, 200);
            break;
        case 'i':
            opt.silent = (int)number(optarg, 0, 1e6);
            break;
        case 'o':
            opt.outstanding = (int)number(optarg, 1, 1e6);
            break;
        case 's':
            opt.size = (uint32_t)number(optarg, 0, 64 << 20);
            break;
        case 't':
            opt.opcode = OP_TEXT;
            break;
        case 'd':
            opt.seconds = number(optarg, 0.01, 3600);
            break;
        case 'w':
            opt.warmup = number(optarg, 0, 3600);
            break;
        case 'h':
            opt.hold = number(optarg, 0, 3600);
            break;
        case 'S':
            opt.server_pid = (int)number(optarg, 1, 1 << 30);
            break;
        default:
            usage();
        }
    }
    if (optind < argc || !opt.port || (opt.mode == IDLE && !opt.server_pid))
        usage();
    if (!opt.addresses)
        opt.addresses = (opt.connections + opt.silent + CONNECTIONS_PER_ADDRESS - 1) / CONNECTIONS_PER_ADDRESS;
}

int main(int argc, char **argv)
{
    parse_options(argc, argv);
    raise_nofile_limit();

    /* One more than asked for: idle mode's first connection is not counted. */
    conns = calloc((size_t)opt.connections + (size_t)opt.silent + 1, sizeof *conns);
    epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    if (!conns || epoll_fd < 0)
        die("start");
    prepare_ring();
    return opt.mode == IDLE ? run_idle() : opt.mode == HANDSHAKES ? run_handshakes() : run_echo();
}
