/* The measuring client: one epoll thread that times single replies, where wsload counts them.
 *
 *     wsprobe --port N --mode echo|pings|stream [options; see usage()]
 *
 * echo: one message under way per connection. The last --slow connections ask for a callback that takes its time, and
 *     ask again as soon as it is over; only the others are timed. With --rate they send on a schedule, and a reply is
 *     timed from when its message was due: one that could not be sent because the last was late counts as late too.
 * pings: pings every connection once in --period, and opens --newcomers more meanwhile, each of which is pinged as
 *     well. Who has no pong within --deadline is lost, and closed.
 * stream: sends nothing and checks what comes: the CRC of each message, whom it was for, and the order of each sender.
 *
 * Prints "ready" when all connections are open. pings then measures two spans, and waits for a line on its stdin
 * between them: the caller does to the server what is to be measured. Prints one line of JSON at the end. Exits 1 if
 * anything was wrong; in pings lost connections are what is measured, and nothing wrong.
 *
 * It never sleeps while something is due within a millisecond: it wants a core of its own.
 */
#define _GNU_SOURCE
#include <getopt.h>
#include <poll.h>
#include <stdarg.h>
#include <sys/epoll.h>

#include "wsclient.h"

#define EVENTS 1024
#define MAX_PAYLOAD_BYTES 65535 /* no server here has a reason to send more */
#define MAX_FRAME_BYTES (MAX_PAYLOAD_BYTES + 10)
#define RECEIVE_BYTES (256 << 10)
#define MAX_SIZE 125
#define PINGS_KEPT 4u           /* send times of the latest pings of a connection; a power of two */
#define MAX_SENDERS 64
#define CONNECTING_AT_ONCE 64
#define OPEN_TIMEOUT_NS 120000000000u
#define NS_PER_MS 1000000u

enum state { UNUSED, CONNECTING, UPGRADING, OPEN, GONE };

struct conn {
    int fd;
    uint8_t state;
    bool slow;
    bool newcomer;
    uint32_t seq;           /* echo, pings: of what was sent last */
    uint32_t answered;      /* pings: of the latest pong */
    bool under_way;         /* echo */
    uint64_t due;           /* echo, pings: when it is to send next; a newcomer: when it began */
    uint64_t sent[PINGS_KEPT];
    uint32_t *next;         /* stream: the number that each sender's next message has to have */
    uint8_t *rest;          /* of a frame that is not whole yet */
    uint32_t rest_len;
    struct handshake *handshake;
    struct conn *later;     /* pings: who is due next */
};

/* Times in classes of 1/64 of their size, so that a percentile is right to 1.6 % from nanoseconds to hours. */
#define PARTS 64u
struct histogram {
    uint64_t count;
    uint64_t max;
    uint32_t classes[PARTS * 60];
};

enum mode { NONE, ECHO, PINGS, STREAM };

static struct {
    const char *host;
    enum mode mode;
    int port;
    int addresses;
    int connections;
    int slow;
    char kind;
    uint32_t size;
    double rate;
    double seconds;
    double warmup;
    int newcomers;
    uint64_t period;
    uint64_t deadline;
    int senders;
    uint64_t messages;
    int server_pid;
    bool until_told;
} opt = {
    .host = "127.0.0.1",
    .connections = 100,
    .kind = 'S',
    .size = 32,
    .seconds = 3.0,
    .warmup = 0.5,
    .period = 1000 * (uint64_t)NS_PER_MS,
    .deadline = 2000 * (uint64_t)NS_PER_MS,
    .senders = 8,
};

static int epoll_fd;
static struct conn *conns;
static int started, open_now, opening, lost, total;
static uint64_t wrong;
static char first_error[160];
static bool measuring;
static uint8_t buffer[MAX_FRAME_BYTES + RECEIVE_BYTES];

static struct histogram latency, upgrades;
static uint64_t slow_replies, received, payload_bytes;
static int newcomers_begun, newcomers_in_time, newcomers_late, lost_before;
static struct conn *first_due, *last_due;

/* --- bookkeeping --- */

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

static void record(struct histogram *h, uint64_t ns)
{
    unsigned shift = 0;
    while (ns >> shift >= 2 * PARTS)
        shift++;
    size_t class = shift * PARTS + (size_t)(ns >> shift);
    h->classes[class]++;
    h->count++;
    if (ns > h->max)
        h->max = ns;
}

/* The upper end of the class below which so many of a million are. */
static double percentile_us(const struct histogram *h, uint64_t millionths)
{
    uint64_t below = 0, want = (h->count * millionths + 999999) / 1000000;
    for (size_t class = 0; class < sizeof h->classes / sizeof *h->classes; class++) {
        below += h->classes[class];
        if (below >= want && below) {
            unsigned shift = class < 2 * PARTS ? 0 : (unsigned)(class / PARTS - 1);
            double end = (double)((class - shift * PARTS + 1) << shift);
            return (end < (double)h->max ? end : (double)h->max) / 1e3;
        }
    }
    return 0;
}

static void print_histogram(const char *name, const struct histogram *h)
{
    printf("\"%s\": {\"count\": %llu, \"p50_us\": %.1f, \"p99_us\": %.1f, \"p999_us\": %.1f, \"max_us\": %.1f}", name,
           (unsigned long long)h->count, percentile_us(h, 500000), percentile_us(h, 990000), percentile_us(h, 999000),
           (double)h->max / 1e3);
}

static void drop(struct conn *c)
{
    if (c->state == OPEN)
        open_now--;
    else
        opening--;
    c->state = GONE;
    if (c->fd >= 0)
        close(c->fd);
    free(c->handshake);
    free(c->rest);
    c->handshake = NULL;
    c->rest = NULL;
}

static void lose(struct conn *c, const char *why)
{
    if (c->state == GONE)
        return;
    note_error("connection %d: %s", (int)(c - conns), why);
    if (c->newcomer && c->state != OPEN)
        newcomers_late++;
    else
        lost++;
    drop(c);
}

/* --- sending --- */

static void send_frame(struct conn *c, uint8_t opcode, const uint8_t *payload, size_t len)
{
    uint8_t frame[2 + 4 + MAX_SIZE] = {0x80 | opcode, (uint8_t)(0x80 | len)};
    uint32_t key = (c->seq + 1) * 2654435761u;
    memcpy(frame + 2, &key, 4);
    xor_copy(frame + 6, payload, len, frame + 2);
    /* What is under way is little enough that the kernel has room for it, or else nobody reads at the other end. */
    if (send(c->fd, frame, 6 + len, MSG_NOSIGNAL) != (ssize_t)(6 + len))
        lose(c, "the kernel did not take a frame");
}

/* The message that a connection has under way: what it asks for, whose it is, the how manieth. */
static size_t message_of(const struct conn *c, uint8_t payload[MAX_SIZE])
{
    uint32_t index = (uint32_t)(c - conns);
    memset(payload, (int)(c->seq & 0xFF), opt.size);
    payload[0] = c->slow ? (uint8_t)opt.kind : 'E';
    memcpy(payload + 1, &index, 4);
    memcpy(payload + 5, &c->seq, 4);
    return opt.size;
}

static void send_message(struct conn *c, uint64_t since)
{
    uint8_t payload[MAX_SIZE];
    c->seq++;
    c->under_way = true;
    c->sent[0] = since;
    send_frame(c, OP_BINARY, payload, message_of(c, payload));
}

static uint64_t interval_ns(void)
{
    return (uint64_t)(1e9 * (opt.connections - opt.slow) / opt.rate);
}

/* On a schedule: sends what is due of one connection, unless its last message is still under way. */
static void send_if_due(struct conn *c, uint64_t now)
{
    if (c->state == OPEN && !c->under_way && c->due <= now) {
        uint64_t since = c->due;
        c->due += interval_ns();
        send_message(c, since);
    }
}

/* --- what comes in --- */

static void got_message(struct conn *c, uint8_t opcode, const uint8_t *payload, size_t len)
{
    uint8_t expected[MAX_SIZE];
    uint64_t now = now_ns();
    if (opcode != OP_BINARY || !c->under_way || len != message_of(c, expected) || memcmp(payload, expected, len) != 0) {
        wrong++;
        note_error("a reply is not the message");
        return;
    }
    c->under_way = false;
    if (c->slow) {
        slow_replies += measuring;
        send_message(c, now);
        return;
    }
    if (measuring)
        record(&latency, now - c->sent[0]);
    if (opt.rate > 0)
        send_if_due(c, now);
    else
        send_message(c, now);
}

static void got_pong(struct conn *c, const uint8_t *payload, size_t len)
{
    uint32_t seq;
    if (len != sizeof seq) {
        wrong++;
        note_error("a pong has %zu bytes, not 4", len);
        return;
    }
    memcpy(&seq, payload, sizeof seq);
    /* A pong may answer the newest of several pings (RFC 6455, section 5.5.3), but none that was not sent. */
    if (seq - c->answered - 1 >= c->seq - c->answered) {
        wrong++;
        note_error("a pong answers no ping");
        return;
    }
    uint64_t now = now_ns(), oldest = now - c->sent[(c->answered + 1) & (PINGS_KEPT - 1)];
    if (oldest > opt.deadline) {
        lose(c, "a pong came too late");
        return;
    }
    c->answered++;
    for (;; c->answered++) {
        if (measuring)
            record(&latency, now - c->sent[c->answered & (PINGS_KEPT - 1)]);
        if (c->answered == seq)
            break;
    }
}

static uint32_t crc_table[8][256];

static void prepare_crc(void)
{
    for (uint32_t i = 0; i < 256; i++) {
        uint32_t crc = i;
        for (int bit = 0; bit < 8; bit++)
            crc = crc >> 1 ^ (crc & 1 ? 0xEDB88320u : 0);
        crc_table[0][i] = crc;
    }
    for (int t = 1; t < 8; t++)
        for (uint32_t i = 0; i < 256; i++)
            crc_table[t][i] = crc_table[t - 1][i] >> 8 ^ crc_table[0][crc_table[t - 1][i] & 0xFF];
}

/* CRC-32 as zlib has it (reflected, polynomial 0x04C11DB7), eight bytes at a time. */
static uint32_t crc32_of(const uint8_t *data, size_t len)
{
    uint32_t crc = ~0u;
    for (; len >= 8; data += 8, len -= 8) {
        uint32_t low, high;
        memcpy(&low, data, 4);
        memcpy(&high, data + 4, 4);
        low = le32toh(low) ^ crc;
        high = le32toh(high);
        crc = crc_table[7][low & 0xFF] ^ crc_table[6][low >> 8 & 0xFF] ^ crc_table[5][low >> 16 & 0xFF] ^
              crc_table[4][low >> 24] ^ crc_table[3][high & 0xFF] ^ crc_table[2][high >> 8 & 0xFF] ^
              crc_table[1][high >> 16 & 0xFF] ^ crc_table[0][high >> 24];
    }
    for (; len; data++, len--)
        crc = crc >> 8 ^ crc_table[0][(crc ^ *data) & 0xFF];
    return ~crc;
}

/* A message of a stream, little-endian: the CRC-32 of the rest, the connection, the sender, its how manieth
 * message on this connection; then anything. */
static void got_stream(struct conn *c, uint8_t opcode, const uint8_t *payload, size_t len)
{
    struct {
        uint32_t crc, index, sender, seq;
    } head;
    received++;
    payload_bytes += len;
    if (opcode != OP_BINARY || len < sizeof head) {
        wrong++;
        note_error("a message has opcode %u and %zu bytes", opcode, len);
        return;
    }
    memcpy(&head, payload, sizeof head);
    if (le32toh(head.crc) != crc32_of(payload + 4, len - 4)) {
        wrong++;
        note_error("connection %d: a message's CRC is wrong", (int)(c - conns));
        return;
    }
    uint32_t sender = le32toh(head.sender), seq = le32toh(head.seq);
    if (le32toh(head.index) != (uint32_t)(c - conns) || sender >= (uint32_t)opt.senders) {
        wrong++;
        note_error("connection %d: got a message for %u of sender %u", (int)(c - conns), le32toh(head.index), sender);
        return;
    }
    if (seq != c->next[sender]) {
        wrong++;
        note_error("connection %d: sender %u's message %u came where %u was due", (int)(c - conns), sender, seq,
                   c->next[sender]);
    }
    c->next[sender] = seq + 1;
}

static void got_frame(struct conn *c, uint8_t opcode, const uint8_t *payload, size_t len)
{
    if (opcode == OP_CLOSE) {
        lose(c, "the server sent a close frame");
    } else if (opcode == OP_PONG && opt.mode == PINGS) {
        got_pong(c, payload, len);
    } else if (opcode == OP_PING) {
        send_frame(c, OP_PONG, payload, len);
    } else if (!(opcode & 0x08)) {
        if (opt.mode == ECHO)
            got_message(c, opcode, payload, len);
        else if (opt.mode == STREAM)
            got_stream(c, opcode, payload, len);
    }
}

/* Reads whole frames; returns the bytes they took. */
static size_t read_frames(struct conn *c, const uint8_t *data, size_t len)
{
    size_t at = 0;
    while (c->state == OPEN) {
        const uint8_t *header = data + at;
        size_t have = len - at, need = header_size(header, have);
        if (have < need)
            break;
        uint64_t payload = header_payload(header);
        if ((header[0] & 0xF0) != 0x80 || header[1] & 0x80 || payload > MAX_PAYLOAD_BYTES ||
            (header[0] & 0x08 && payload > 125)) {
            wrong++;
            lose(c, "a frame that no server here sends");
            break;
        }
        if (have - need < payload)
            break;
        at += need + (size_t)payload;
        got_frame(c, header[0] & 0x0F, header + need, (size_t)payload);
    }
    return at;
}

/* Reads whole frames, and keeps what is left until the rest of it comes. */
static void take_bytes(struct conn *c, const uint8_t *data, size_t len)
{
    size_t taken = read_frames(c, data, len);
    if (c->state != OPEN)
        return;
    c->rest_len = (uint32_t)(len - taken);
    if (!c->rest_len)
        return;
    if (!c->rest && !(c->rest = malloc(MAX_FRAME_BYTES)))
        die("malloc");
    memcpy(c->rest, data + taken, c->rest_len);
}

static void readable(struct conn *c)
{
    size_t before = c->rest_len;
    if (before)
        memcpy(buffer, c->rest, before);
    ssize_t got = recv(c->fd, buffer + before, sizeof buffer - before, 0);
    if (got <= 0) {
        if (got < 0 && errno == EAGAIN)
            return;
        lose(c, got == 0 ? "closed by the server" : strerror(errno));
        return;
    }
    take_bytes(c, buffer, before + (size_t)got);
}

/* --- connections --- */

static void put_due(struct conn *c, uint64_t due)
{
    /* All periods are the same: who comes to the end is due last. */
    c->due = due;
    c->later = NULL;
    if (last_due)
        last_due->later = c;
    else
        first_due = c;
    last_due = c;
}

static void begin(struct conn *c)
{
    c->state = CONNECTING;
    c->due = now_ns();
    opening++;
    if (!(c->handshake = malloc(sizeof *c->handshake)))
        die("malloc");
    c->fd = dial(opt.host, opt.port, (int)(c - conns), opt.addresses);
    if (c->fd < 0) {
        lose(c, strerror(errno));
        return;
    }
    struct epoll_event event = {.events = EPOLLOUT, .data.ptr = c};
    if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, c->fd, &event) != 0)
        die("epoll_ctl");
}

static void connected(struct conn *c)
{
    char path[32];
    snprintf(path, sizeof path, "/%d", (int)(c - conns));
    const char *problem = send_request(c->fd, c->handshake, opt.host, opt.port, path);
    if (problem) {
        lose(c, problem);
        return;
    }
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = c};
    if (epoll_ctl(epoll_fd, EPOLL_CTL_MOD, c->fd, &event) != 0)
        die("epoll_ctl");
    c->state = UPGRADING;
}

static void upgrading(struct conn *c)
{
    bool upgraded;
    const char *problem = read_response(c->fd, c->handshake, &upgraded);
    if (problem) {
        lose(c, problem);
        return;
    }
    if (!upgraded)
        return;
    uint64_t now = now_ns(), took = now - c->due;
    if (c->newcomer && took > opt.deadline) {
        lose(c, "a newcomer's upgrade came too late");
        return;
    }
    c->state = OPEN;
    opening--;
    open_now++;
    if (c->newcomer) {
        newcomers_in_time++;
        record(&upgrades, took);
        put_due(c, now + opt.period);
    }
    struct handshake *h = c->handshake;
    c->handshake = NULL;
    take_bytes(c, (const uint8_t *)h->head + h->head_len, h->len - h->head_len);
    free(h);
}

static void turn(uint64_t until)
{
    static struct epoll_event events[EVENTS];
    uint64_t now = now_ns();
    int timeout_ms = until > now ? (int)((until - now) / NS_PER_MS) : 0;
    int count = epoll_wait(epoll_fd, events, EVENTS, timeout_ms);
    if (count < 0 && errno != EINTR)
        die("epoll_wait");
    for (int i = 0; i < count; i++) {
        struct conn *c = events[i].data.ptr;
        if (c->state == CONNECTING)
            connected(c);
        else if (c->state == UPGRADING)
            upgrading(c);
        else if (c->state == OPEN)
            readable(c);
    }
}

static void open_all(void)
{
    uint64_t end = now_ns() + OPEN_TIMEOUT_NS;
    while (open_now < opt.connections && !lost && now_ns() < end) {
        while (started < opt.connections && opening < CONNECTING_AT_ONCE && !lost)
            begin(&conns[started++]);
        turn(now_ns() + 100 * (uint64_t)NS_PER_MS);
    }
    if (open_now < opt.connections) {
        note_error("%d of %d connections are open", open_now, opt.connections);
        printf("{\"error\": \"%s\"}\n", first_error);
        exit(1);
    }
    printf("ready\n");
    fflush(stdout);
}

/* --- modes --- */

/* From here on until it is printed: what nobody of us used, in cores. Time of a thread that ended meanwhile is others'. */
static double machine_before, own_before, server_before, watched_since;

static void watch_others(void)
{
    int threads;
    machine_before = machine_cpu_s();
    own_before = process_cpu_s(getpid(), &threads);
    if (opt.server_pid)
        server_before = process_cpu_s(opt.server_pid, &threads);
    watched_since = now_s();
}

static void print_others(void)
{
    int threads;
    if (!opt.server_pid)
        return;
    double own = process_cpu_s(getpid(), &threads) - own_before;
    double server = process_cpu_s(opt.server_pid, &threads) - server_before;
    double elapsed = now_s() - watched_since;
    printf(", \"server_cpu\": %.3f, \"other_cpu\": %.3f", server / elapsed,
           (machine_cpu_s() - machine_before - own - server) / elapsed);
}

/* A line, or the end of them. */
static bool told(void)
{
    struct pollfd in = {.fd = STDIN_FILENO, .events = POLLIN};
    return poll(&in, 1, 0) > 0;
}

static void echo_until(uint64_t end)
{
    for (uint64_t now; (now = now_ns()) < end && open_now;) {
        if (opt.until_told && measuring && told())
            return;
        uint64_t until = opt.until_told && end > now + 50 * (uint64_t)NS_PER_MS ? now + 50 * (uint64_t)NS_PER_MS : end;
        if (opt.rate > 0)
            for (int i = 0; i < opt.connections - opt.slow; i++) {
                send_if_due(&conns[i], now);
                if (!conns[i].under_way && conns[i].due < until)
                    until = conns[i].due;
            }
        turn(until);
    }
}

static void run_echo(void)
{
    uint64_t begun = now_ns(), step = opt.rate > 0 ? interval_ns() / (uint64_t)(opt.connections - opt.slow) : 0;
    for (int i = 0; i < opt.connections; i++) {
        conns[i].slow = i >= opt.connections - opt.slow;
        conns[i].due = begun + (uint64_t)i * step;
        if (conns[i].slow || opt.rate <= 0)
            send_message(&conns[i], begun);
    }
    echo_until(now_ns() + (uint64_t)(opt.warmup * 1e9));
    measuring = true;
    watch_others();
    begun = now_ns();
    echo_until(begun + (uint64_t)(opt.seconds * 1e9));
    uint64_t end = now_ns();
    uint64_t replies = latency.count;
    /* Those that wait have waited so long at least. Without them a server that answers nobody would be the best. */
    for (int i = 0; i < opt.connections - opt.slow; i++) {
        struct conn *c = &conns[i];
        if (c->state == OPEN && c->under_way)
            record(&latency, end - c->sent[0]);
        if (opt.rate > 0)
            for (; c->due < end; c->due += interval_ns())
                record(&latency, end - c->due);
    }
    double seconds = (double)(end - begun) / 1e9;
    printf("{\"mode\": \"echo\", \"seconds\": %.3f, \"messages_per_s\": %.0f, \"slow_per_s\": %.1f, ", seconds,
           (double)replies / seconds, (double)slow_replies / seconds);
    print_histogram("round_trip", &latency);
    print_others();
}

static void ping_due(uint64_t now)
{
    while (first_due && first_due->due <= now) {
        struct conn *c = first_due;
        first_due = c->later;
        if (!first_due)
            last_due = NULL;
        if (c->state != OPEN)
            continue;
        if (c->seq != c->answered && now - c->sent[(c->answered + 1) & (PINGS_KEPT - 1)] >= opt.deadline) {
            lose(c, "no pong within the deadline");
            continue;
        }
        c->seq++;
        c->sent[c->seq & (PINGS_KEPT - 1)] = now_ns();
        put_due(c, c->due + opt.period);
        send_frame(c, OP_PING, (const uint8_t *)&c->seq, sizeof c->seq);
    }
}

/* Newcomers come evenly until one deadline before the end, so that each has had its time by then. */
static void pings_until(uint64_t end, int newcomers)
{
    uint64_t begun = now_ns(), span = end - begun;
    uint64_t step = newcomers ? (span > 2 * opt.deadline ? span - opt.deadline : span / 2) / (uint64_t)newcomers : 0;
    int come = 0, watched = started;
    for (uint64_t now; (now = now_ns()) < end;) {
        ping_due(now);
        while (come < newcomers && begun + (uint64_t)come * step <= now) {
            struct conn *c = &conns[started++];
            c->newcomer = true;
            come++;
            newcomers_begun++;
            begin(c);
        }
        for (; watched < started; watched++) {
            struct conn *c = &conns[watched];
            if (c->state != CONNECTING && c->state != UPGRADING)
                continue;
            if (now_ns() - c->due <= opt.deadline)
                break;
            lose(c, "a newcomer was not upgraded within the deadline");
        }
        uint64_t until = end;
        if (first_due && first_due->due < until)
            until = first_due->due;
        if (come < newcomers && begun + (uint64_t)come * step < until)
            until = begun + (uint64_t)come * step;
        if (until > now + 50 * (uint64_t)NS_PER_MS)
            until = now + 50 * (uint64_t)NS_PER_MS;
        turn(until);
    }
}

/* Who still owes a pong, or an upgrade, has its time; nobody is pinged any more. */
static void settle(void)
{
    first_due = last_due = NULL;
    uint64_t end = now_ns() + opt.deadline;
    for (;;) {
        int owing = 0;
        for (int i = 0; i < started; i++)
            owing += conns[i].state == CONNECTING || conns[i].state == UPGRADING ||
                     (conns[i].state == OPEN && conns[i].seq != conns[i].answered);
        if (!owing)
            return;
        uint64_t now = now_ns();
        if (now >= end)
            break;
        turn(now + 10 * (uint64_t)NS_PER_MS < end ? now + 10 * (uint64_t)NS_PER_MS : end);
    }
    for (int i = 0; i < started; i++)
        if (conns[i].state == CONNECTING || conns[i].state == UPGRADING)
            lose(&conns[i], "a newcomer was not upgraded within the deadline");
        else if (conns[i].state == OPEN && conns[i].seq != conns[i].answered)
            lose(&conns[i], "no pong within the deadline");
}

static void run_pings(void)
{
    uint64_t begun = now_ns();
    for (int i = 0; i < opt.connections; i++)
        put_due(&conns[i], begun + opt.period * (uint64_t)i / (uint64_t)opt.connections);
    /* The first second belongs to nobody: what opening so many has left behind is still being done. */
    pings_until(now_ns() + opt.period, 0);
    measuring = true;
    pings_until(now_ns() + (uint64_t)(opt.warmup * 1e9), 0);
    lost_before = lost;
    printf("{\"mode\": \"pings\", \"connections\": %d, \"lost_before\": %d, ", opt.connections, lost_before);
    print_histogram("before", &latency);
    fflush(stdout);
    measuring = false;
    printf("}\n");
    fflush(stdout);

    /* Pings go on while we wait for the word. */
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = NULL};
    int go = epoll_create1(EPOLL_CLOEXEC);
    if (go < 0 || epoll_ctl(go, EPOLL_CTL_ADD, STDIN_FILENO, &event) != 0)
        die("stdin");
    while (epoll_wait(go, &event, 1, 0) == 0)
        pings_until(now_ns() + NS_PER_MS, 0);
    close(go);
    lost_before = lost;
    memset(&latency, 0, sizeof latency);
    measuring = true;
    watch_others();
    pings_until(now_ns() + (uint64_t)(opt.seconds * 1e9), opt.newcomers);
    settle();
    printf("{\"lost\": %d, \"lost_between\": %d, \"newcomers\": %d, \"newcomers_in_time\": %d, ", lost - lost_before,
           lost_before, newcomers_begun, newcomers_in_time);
    print_histogram("pong", &latency);
    printf(", ");
    print_histogram("upgrade", &upgrades);
    print_others();
}

static void run_stream(void)
{
    uint64_t begun = 0, last = now_ns(), end = 0, seen = 0;
    while (received < opt.messages && open_now) {
        turn(now_ns() + 100 * (uint64_t)NS_PER_MS);
        uint64_t now = now_ns();
        if (received != seen) {
            if (!begun)
                begun = last;
            end = now;
        } else if (now - (end ? end : begun) > 30 * 1000 * (uint64_t)NS_PER_MS && end) {
            note_error("nothing has come for 30 s");
            break;
        }
        seen = received;
        last = now;
    }
    /* Each sender sends as many to each connection. */
    uint64_t each = opt.messages / ((uint64_t)opt.connections * (uint64_t)opt.senders);
    for (int i = 0; i < opt.connections; i++)
        for (int sender = 0; sender < opt.senders; sender++)
            if (conns[i].next[sender] != each) {
                wrong++;
                note_error("connection %d: %u messages of sender %d, not %llu", i, conns[i].next[sender], sender,
                           (unsigned long long)each);
            }
    double seconds = end > begun ? (double)(end - begun) / 1e9 : 0;
    printf("{\"mode\": \"stream\", \"messages\": %llu, \"payload_bytes\": %llu, \"seconds\": %.3f, "
           "\"messages_per_s\": %.0f",
           (unsigned long long)received, (unsigned long long)payload_bytes, seconds,
           seconds > 0 ? (double)received / seconds : 0);
}

static _Noreturn void usage(void)
{
    fprintf(stderr,
            "usage: wsprobe --port N --mode echo|pings|stream [options]\n"
            "  --host A            IPv4 address (default 127.0.0.1)\n"
            "  --addresses N       spread connections over 127.0.1.1 to 127.0.1.N; 0: as many as needed (default 0)\n"
            "  --connections N     (default 100)\n"
            "  --seconds S         measured time (default 3)\n"
            "  --server-pid PID    adds what others used of the machine\n"
            "  --warmup S          echo: time before it; pings: time measured before the line on stdin (default 0.5)\n"
            "echo\n"
            "  --size N            payload bytes, 9 to 125 (default 32)\n"
            "  --rate N            messages a second in all, on a schedule; 0: as fast as replies come (default 0)\n"
            "  --slow N            of the connections ask for a slow callback (default 0)\n"
            "  --kind C            first byte of their messages (default S)\n"
            "  --until-told        measure until a line comes on stdin, or --seconds are over\n"
            "pings\n"
            "  --period S          (default 1)\n"
            "  --deadline S        (default 2)\n"
            "  --newcomers N       (default 0)\n"
            "stream\n"
            "  --senders N         (default 8)\n"
            "  --messages N        in all, a multiple of connections * senders\n");
    exit(2);
}

static void parse_options(int argc, char **argv)
{
    static const struct option options[] = {
        {"mode", required_argument, NULL, 'm'},      {"host", required_argument, NULL, 'H'},
        {"port", required_argument, NULL, 'p'},      {"connections", required_argument, NULL, 'c'},
        {"addresses", required_argument, NULL, 'a'}, {"size", required_argument, NULL, 's'},
        {"rate", required_argument, NULL, 'r'},      {"slow", required_argument, NULL, 'w'},
        {"kind", required_argument, NULL, 'k'},      {"seconds", required_argument, NULL, 'd'},
        {"warmup", required_argument, NULL, 'W'},    {"period", required_argument, NULL, 'P'},
        {"deadline", required_argument, NULL, 'D'},  {"newcomers", required_argument, NULL, 'n'},
        {"senders", required_argument, NULL, 'S'},   {"messages", required_argument, NULL, 'M'},
        {"server-pid", required_argument, NULL, 'i'}, {"until-told", no_argument, NULL, 'u'},
        {NULL, 0, NULL, 0},
    };
    int key;
    while ((key = getopt_long(argc, argv, "", options, NULL)) != -1) {
        switch (key) {
        case 'm':
            opt.mode = strcmp(optarg, "echo") == 0     ? ECHO
                       : strcmp(optarg, "pings") == 0  ? PINGS
                       : strcmp(optarg, "stream") == 0 ? STREAM
                                                       : NONE;
            break;
        case 'H':
            opt.host = optarg;
            break;
        case 'p':
            opt.port = (int)number(optarg, 1, 65535);
            break;
        case 'c':
            opt.connections = (int)number(optarg, 1, 1e6);
            break;
        case 'a':
            opt.addresses = (int)number(optarg, 0, 200);
            break;
        case 's':
            opt.size = (uint32_t)number(optarg, 9, MAX_SIZE);
            break;
        case 'r':
            opt.rate = number(optarg, 0, 1e7);
            break;
        case 'w':
            opt.slow = (int)number(optarg, 0, 1e6);
            break;
        case 'k':
            opt.kind = optarg[0];
            break;
        case 'd':
            opt.seconds = number(optarg, 0.01, 3600);
            break;
        case 'W':
            opt.warmup = number(optarg, 0, 3600);
            break;
        case 'P':
            opt.period = (uint64_t)(number(optarg, 0.01, 3600) * 1e9);
            break;
        case 'D':
            opt.deadline = (uint64_t)(number(optarg, 0.01, 3600) * 1e9);
            break;
        case 'n':
            opt.newcomers = (int)number(optarg, 0, 1e6);
            break;
        case 'S':
            opt.senders = (int)number(optarg, 1, MAX_SENDERS);
            break;
        case 'M':
            opt.messages = (uint64_t)number(optarg, 1, 1e12);
            break;
        case 'i':
            opt.server_pid = (int)number(optarg, 1, 1 << 30);
            break;
        case 'u':
            opt.until_told = true;
            break;
        default:
            usage();
        }
    }
    if (optind < argc || !opt.port || opt.mode == NONE || opt.slow >= opt.connections)
        usage();
    if (opt.mode == PINGS && opt.deadline >= opt.period * (PINGS_KEPT - 1)) {
        fprintf(stderr, "--deadline has to be below %u periods\n", PINGS_KEPT - 1);
        exit(2);
    }
    if (opt.mode == STREAM && (!opt.messages || opt.messages % ((uint64_t)opt.connections * (uint64_t)opt.senders))) {
        fprintf(stderr, "--messages has to be a multiple of connections * senders\n");
        exit(2);
    }
    if (opt.mode != PINGS)
        opt.newcomers = 0;
    total = opt.connections + opt.newcomers;
    if (!opt.addresses)
        opt.addresses = (total + CONNECTIONS_PER_ADDRESS - 1) / CONNECTIONS_PER_ADDRESS;
}

int main(int argc, char **argv)
{
    parse_options(argc, argv);
    raise_nofile_limit();
    prepare_crc();
    conns = calloc((size_t)total, sizeof *conns);
    uint32_t *numbers = calloc((size_t)total, opt.mode == STREAM ? sizeof *numbers * (size_t)opt.senders : 1);
    epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    if (!conns || !numbers || epoll_fd < 0)
        die("start");
    if (opt.mode == STREAM)
        for (int i = 0; i < total; i++)
            conns[i].next = numbers + (size_t)i * (size_t)opt.senders;

    open_all();
    if (opt.mode == ECHO)
        run_echo();
    else if (opt.mode == PINGS)
        run_pings();
    else
        run_stream();
    printf(", \"wrong\": %llu, \"open\": %d, \"error\": \"%s\"}\n", (unsigned long long)wrong, open_now, first_error);
    return wrong || (opt.mode != PINGS && lost) ? 1 : 0;
}
