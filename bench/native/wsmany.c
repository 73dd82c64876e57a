/* The client for very many connections: opens them, has each echo a message, and holds them.
 *
 *     wsmany --port N --connections N [options; see usage()]
 *
 * It is told on its stdin what to do, a line each, and answers each with a line of JSON:
 *     connect N    open connections until there are N: the handshake of each is checked
 *     echo         send a message of its own on every one, and check that it comes back
 *     close        close all, with RST: no TIME_WAIT stays behind
 * At the end of stdin it ends, and they with it. Exits 1 if anything was wrong.
 *
 * RLIMIT_NOFILE counts per process, so the connections are in as many processes as it takes, of which --parallel are at
 * work at the same time. A connection is in epoll only while something is awaited: what is measured is what the server
 * and its sockets cost, and those of a client are dear enough.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <getopt.h>
#include <poll.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#include "wsclient.h"

#define MAX_PROCESSES 128
#define MAX_WINDOW 1024
#define RESERVED_FDS 64 /* of a process: its pipes, epoll, stdin, stdout, stderr */
#define PATIENCE_MS 30000
#define MAX_ECHO_BYTES 64

struct order {
    char what;   /* c, e, x */
    int target;  /* of c: connections of this process */
};

struct result {
    int done;
    int failed;
    char error[160]; /* the first one */
};

static struct {
    const char *host;
    const char *path;
    int port;
    int connections;
    int addresses;
    int per_process;
    int parallel;
    int window;
} opt = {"127.0.0.1", "/", 0, 0, 0, 0, 2, 128};

/* What is under way on one connection. */
struct errand {
    int fd; /* -1: free */
    int index;
    bool sent;
    struct handshake handshake;
};

static int *fds;
static int n_fds;
static int first_index; /* of this process among all connections */
static int epoll_fd;
static struct errand *errands;
static struct result outcome;

static void fail(const char *why)
{
    outcome.failed++;
    if (!outcome.error[0])
        snprintf(outcome.error, sizeof outcome.error, "%.159s", why);
}

static void watch(int op, int slot, uint32_t events)
{
    struct epoll_event event = {.events = events, .data.u32 = (uint32_t)slot};
    if (epoll_ctl(epoll_fd, op, errands[slot].fd, &event) != 0)
        die("epoll_ctl");
}

static void drop(int slot, const char *why)
{
    close(errands[slot].fd);
    errands[slot].fd = -1;
    fail(why);
}

static bool begin_connect(int slot, int index)
{
    struct errand *e = &errands[slot];
    e->fd = dial(opt.host, opt.port, index, opt.addresses);
    e->index = index;
    e->sent = false;
    if (e->fd < 0) {
        fail(strerror(errno));
        return false;
    }
    watch(EPOLL_CTL_ADD, slot, EPOLLOUT);
    return true;
}

/* Whether the errand is over. */
static bool go_on_connecting(int slot)
{
    struct errand *e = &errands[slot];
    const char *wrong;
    bool upgraded = false;
    if (!e->sent) {
        wrong = send_request(e->fd, &e->handshake, opt.host, opt.port, opt.path);
        if (!wrong) {
            e->sent = true;
            watch(EPOLL_CTL_MOD, slot, EPOLLIN);
            return false;
        }
    } else {
        wrong = read_response(e->fd, &e->handshake, &upgraded);
        if (!wrong && !upgraded)
            return false;
    }
    if (!wrong && e->handshake.len != e->handshake.head_len)
        wrong = "a frame that nobody asked for, right behind the response";
    if (wrong) {
        drop(slot, wrong);
        return true;
    }
    watch(EPOLL_CTL_DEL, slot, 0);
    fds[n_fds++] = e->fd;
    e->fd = -1;
    outcome.done++;
    return true;
}

/* A message that is this connection's alone. */
static size_t words_of(int index, char out[MAX_ECHO_BYTES])
{
    return (size_t)snprintf(out, MAX_ECHO_BYTES, "connection %08d", index);
}

static bool begin_echo(int slot, int place)
{
    struct errand *e = &errands[slot];
    uint8_t frame[14 + MAX_ECHO_BYTES], key[4];
    char words[MAX_ECHO_BYTES];
    size_t len = words_of(first_index + place, words), head = put_header(frame, 0x80 | OP_TEXT, len);
    random_bytes(key, sizeof key);
    frame[1] |= 0x80;
    memcpy(frame + head, key, sizeof key);
    xor_copy(frame + head + 4, (const uint8_t *)words, len, key);
    e->fd = fds[place];
    e->index = first_index + place;
    e->handshake.len = 0;
    if (send(e->fd, frame, head + 4 + len, MSG_NOSIGNAL) != (ssize_t)(head + 4 + len)) {
        fail("a message was not taken as a whole");
        e->fd = -1;
        return false;
    }
    watch(EPOLL_CTL_ADD, slot, EPOLLIN);
    return true;
}

static bool go_on_echoing(int slot)
{
    struct errand *e = &errands[slot];
    char *got = e->handshake.head, expected[MAX_ECHO_BYTES + 14];
    char words[MAX_ECHO_BYTES];
    size_t len = words_of(e->index, words), head = put_header((uint8_t *)expected, 0x80 | OP_TEXT, len);
    memcpy(expected + head, words, len);
    ssize_t n = recv(e->fd, got + e->handshake.len, MAX_HEAD_BYTES - e->handshake.len, 0);
    if (n < 0 && errno == EAGAIN)
        return false;
    if (n > 0) {
        e->handshake.len += (uint32_t)n;
        if (e->handshake.len < head + len)
            return false;
    }
    if (n > 0 && e->handshake.len == head + len && memcmp(got, expected, head + len) == 0)
        outcome.done++;
    else
        fail(n == 0 ? "closed" : n < 0 ? strerror(errno) : "the reply is another");
    watch(EPOLL_CTL_DEL, slot, 0);
    e->fd = -1;
    return true;
}

/* Runs an errand for each number from first to stop, a window of them at a time. */
static void run(bool (*begin)(int, int), bool (*go_on)(int), int first, int stop, int offset)
{
    struct epoll_event ready[256];
    int under_way = 0, next = first, slot;
    int vacant[MAX_WINDOW], n_vacant = 0;
    for (slot = opt.window; slot-- > 0;)
        vacant[n_vacant++] = slot;
    while (next < stop || under_way) {
        while (next < stop && n_vacant) {
            if (begin(vacant[n_vacant - 1], offset + next++)) {
                n_vacant--;
                under_way++;
            }
        }
        if (!under_way)
            continue;
        int n = epoll_wait(epoll_fd, ready, 256, PATIENCE_MS);
        if (n < 0 && errno != EINTR)
            die("epoll_wait");
        if (n == 0) {
            for (slot = 0; slot < opt.window; slot++)
                if (errands[slot].fd >= 0) {
                    watch(EPOLL_CTL_DEL, slot, 0);
                    errands[slot].fd = -1;
                    fail("nothing came for 30 s");
                }
            return;
        }
        for (int i = 0; i < n; i++) {
            slot = (int)ready[i].data.u32;
            if (errands[slot].fd >= 0 && go_on(slot)) {
                vacant[n_vacant++] = slot;
                under_way--;
            }
        }
    }
}

static void worker(int number, int orders, int results)
{
    struct order order;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    first_index = number * opt.per_process;
    fds = malloc(sizeof *fds * (size_t)opt.per_process);
    errands = calloc((size_t)opt.window, sizeof *errands);
    epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    if (!fds || !errands || epoll_fd < 0)
        die("a process of wsmany");
    for (int i = 0; i < opt.window; i++)
        errands[i].fd = -1;
    while (read(orders, &order, sizeof order) == (ssize_t)sizeof order) {
        memset(&outcome, 0, sizeof outcome);
        if (order.what == 'c') {
            run(begin_connect, go_on_connecting, n_fds, order.target, first_index);
        } else if (order.what == 'e') {
            run(begin_echo, go_on_echoing, 0, n_fds, 0);
        } else {
            outcome.done = n_fds;
            while (n_fds)
                close(fds[--n_fds]);
        }
        if (write(results, &outcome, sizeof outcome) != (ssize_t)sizeof outcome)
            die("write");
    }
    _exit(0);
}

static int n_processes;
static int order_fd[MAX_PROCESSES], result_fd[MAX_PROCESSES];

static void start(void)
{
    for (int k = 0; k < n_processes; k++) {
        int orders[2], results[2];
        if (pipe2(orders, O_CLOEXEC) != 0 || pipe2(results, O_CLOEXEC) != 0)
            die("pipe2");
        pid_t pid = fork();
        if (pid < 0)
            die("fork");
        if (pid == 0) {
            for (int other = 0; other < k; other++) {
                close(order_fd[other]);
                close(result_fd[other]);
            }
            close(orders[1]);
            close(results[0]);
            worker(k, orders[0], results[1]);
        }
        close(orders[0]);
        close(results[1]);
        order_fd[k] = orders[1];
        result_fd[k] = results[0];
    }
}

/* Gives each process its order, --parallel of them at a time, and adds up what comes of it. */
static struct result command(char what, int target)
{
    struct result total = {0};
    struct pollfd awaited[MAX_PROCESSES];
    int next = 0, under_way = 0;
    for (int k = 0; k < n_processes; k++)
        awaited[k] = (struct pollfd){.fd = -1, .events = POLLIN};
    while (next < n_processes || under_way) {
        while (next < n_processes && under_way < opt.parallel) {
            int first = next * opt.per_process, mine = target - first;
            struct order order = {what, mine < 0 ? 0 : mine > opt.per_process ? opt.per_process : mine};
            if (write(order_fd[next], &order, sizeof order) != (ssize_t)sizeof order)
                die("write");
            awaited[next].fd = result_fd[next];
            next++;
            under_way++;
        }
        if (poll(awaited, (nfds_t)n_processes, -1) < 0 && errno != EINTR)
            die("poll");
        for (int k = 0; k < n_processes; k++) {
            struct result one;
            if (awaited[k].fd < 0 || !awaited[k].revents)
                continue;
            if (read(awaited[k].fd, &one, sizeof one) != (ssize_t)sizeof one) {
                fprintf(stderr, "a process of wsmany has ended\n");
                exit(1);
            }
            awaited[k].fd = -1;
            under_way--;
            total.done += one.done;
            total.failed += one.failed;
            if (!total.error[0])
                memcpy(total.error, one.error, sizeof one.error);
        }
    }
    return total;
}

static void usage(void)
{
    fprintf(stderr,
            "wsmany --port N --connections N [options]\n"
            "  --host ADDRESS      127.0.0.1; only with --addresses 1\n"
            "  --path PATH         /\n"
            "  --addresses N       127.0.1.1 and on, in turn; as many as give each 1000 connections\n"
            "  --per-process N     connections; as many as RLIMIT_NOFILE allows\n"
            "  --parallel N        processes at work at the same time; 2\n"
            "  --window N          handshakes or messages of each under way; 128\n");
    exit(2);
}

int main(int argc, char **argv)
{
    static const struct option options[] = {
        {"host", required_argument, NULL, 'h'},      {"port", required_argument, NULL, 'p'},
        {"path", required_argument, NULL, 't'},      {"connections", required_argument, NULL, 'n'},
        {"addresses", required_argument, NULL, 'a'}, {"per-process", required_argument, NULL, 'm'},
        {"parallel", required_argument, NULL, 'l'},  {"window", required_argument, NULL, 'w'},
        {NULL, 0, NULL, 0},
    };
    int c;
    while ((c = getopt_long(argc, argv, "", options, NULL)) != -1) {
        switch (c) {
        case 'h': opt.host = optarg; break;
        case 'p': opt.port = (int)number(optarg, 1, 65535); break;
        case 't': opt.path = optarg; break;
        case 'n': opt.connections = (int)number(optarg, 1, 16e6); break;
        case 'a': opt.addresses = (int)number(optarg, 1, 65000); break;
        case 'm': opt.per_process = (int)number(optarg, 1, 16e6); break;
        case 'l': opt.parallel = (int)number(optarg, 1, MAX_PROCESSES); break;
        case 'w': opt.window = (int)number(optarg, 1, MAX_WINDOW); break;
        default: usage();
        }
    }
    if (optind != argc || !opt.port || !opt.connections)
        usage();
    raise_nofile_limit();
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) != 0)
        die("getrlimit");
    int most = limit.rlim_cur > 16000000 ? 16000000 : (int)limit.rlim_cur - RESERVED_FDS;
    if (opt.per_process == 0 || opt.per_process > most)
        opt.per_process = most;
    if (opt.addresses == 0)
        opt.addresses = (opt.connections + CONNECTIONS_PER_ADDRESS - 1) / CONNECTIONS_PER_ADDRESS;
    n_processes = (opt.connections + opt.per_process - 1) / opt.per_process;
    if (n_processes > MAX_PROCESSES) {
        fprintf(stderr, "%d connections would take %d processes\n", opt.connections, n_processes);
        return 2;
    }
    signal(SIGPIPE, SIG_IGN);
    start();

    char line[64];
    bool wrong = false;
    while (fgets(line, sizeof line, stdin)) {
        double began = now_s();
        struct result r;
        if (strncmp(line, "connect ", 8) == 0) {
            line[strcspn(line, "\n")] = '\0';
            r = command('c', (int)number(line + 8, 1, opt.connections));
        } else if (strcmp(line, "echo\n") == 0) {
            r = command('e', 0);
        } else if (strcmp(line, "close\n") == 0) {
            r = command('x', 0);
        } else {
            fprintf(stderr, "there is no such order: %s", line);
            return 2;
        }
        wrong |= r.failed != 0;
        make_quotable(r.error);
        printf("{\"done\": %d, \"failed\": %d, \"seconds\": %.3f, \"processes\": %d, \"error\": \"%s\"}\n", r.done,
               r.failed, now_s() - began, n_processes, r.error);
        fflush(stdout);
    }
    for (int k = 0; k < n_processes; k++)
        close(order_fd[k]);
    while (wait(NULL) > 0)
        ;
    return wrong;
}
