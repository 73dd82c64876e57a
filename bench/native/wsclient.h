/* What wsload and wsprobe share: sockets, the opening handshake of a client, the headers of frames that come in.
 *
 * Nothing here waits: whoever includes it has the epoll.
 */
#ifndef UWS_BENCH_WSCLIENT_H
#define UWS_BENCH_WSCLIENT_H

#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "wscommon.h"

#define MAX_HEAD_BYTES 4096
#define CONNECTIONS_PER_ADDRESS 1000

/* A handshake under way. */
struct handshake {
    char key[WS_KEY_CHARS + 1];
    uint32_t len;
    uint32_t head_len;      /* of the response, once it is whole; what is behind it are frames */
    char head[MAX_HEAD_BYTES + 1];
};

static inline uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static inline double now_s(void)
{
    return (double)now_ns() / 1e9;
}

static void random_bytes(void *out, size_t len)
{
    for (size_t got = 0; got < len;) {
        ssize_t n = getrandom((uint8_t *)out + got, len - got, 0);
        if (n < 0)
            die("getrandom");
        got += (size_t)n;
    }
}

/* The value of an option; exits where it is none. */
static double number(const char *text, double low, double high)
{
    char *end;
    double value = strtod(text, &end);
    if (*end || !(value >= low && value <= high)) {
        fprintf(stderr, "%s is not a number from %g to %g\n", text, low, high);
        exit(2);
    }
    return value;
}

static void raise_nofile_limit(void)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) != 0)
        die("getrlimit");
    limit.rlim_cur = limit.rlim_max;
    if (setrlimit(RLIMIT_NOFILE, &limit) != 0)
        die("setrlimit");
}

/* A socket that is being connected, or -1 with errno. index: of the connection; addresses: 127.0.1.1 to .N are
 * used in turn, for to one address the kernel's search for a free local port slows down with every connection. */
static int dial(const char *host, int port, int index, int addresses)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    int one = 1;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        die("socket");
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    /* Closing with RST leaves no TIME_WAIT behind: the next run finds its ports free. */
    struct linger linger = {.l_onoff = 1, .l_linger = 0};
    setsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, sizeof linger);

    if (inet_pton(AF_INET, host, &address.sin_addr) != 1) {
        fprintf(stderr, "not an IPv4 address: %s\n", host);
        exit(2);
    }
    if (addresses > 1)
        address.sin_addr.s_addr = htonl(0x7F000100u + 1u + (uint32_t)(index % addresses));
    if (connect(fd, (struct sockaddr *)&address, sizeof address) != 0 && errno != EINPROGRESS) {
        int error = errno;
        close(fd);
        errno = error;
        return -1;
    }
    return fd;
}

/* Sends the request once the socket is connected. field: one more, without its CRLF, or NULL. NULL, or what went
 * wrong. */
static const char *send_request_with(int fd, struct handshake *h, const char *host, int port, const char *path,
                                     const char *field)
{
    int error = 0;
    socklen_t size = sizeof error;
    getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size);
    if (error)
        return strerror(error);
    uint8_t nonce[16];
    char request[512];
    random_bytes(nonce, sizeof nonce);
    base64_encode(nonce, sizeof nonce, h->key);
    h->len = 0;
    int n = snprintf(request, sizeof request,
                     "GET %s HTTP/1.1\r\nHost: %s:%d\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                     "Sec-WebSocket-Key: %s\r\nSec-WebSocket-Version: 13\r\n%s%s\r\n",
                     path, host, port, h->key, field ? field : "", field ? "\r\n" : "");
    if (n >= (int)sizeof request) {
        fprintf(stderr, "the request is too long\n");
        exit(2);
    }
    return send(fd, request, (size_t)n, MSG_NOSIGNAL) == n ? NULL : "the request was not taken as a whole";
}

static inline const char *send_request(int fd, struct handshake *h, const char *host, int port, const char *path)
{
    return send_request_with(fd, h, host, port, path, NULL);
}

/* Reads what has come of the response; *upgraded once all of it has. NULL, or what is wrong with it. */
static const char *read_response(int fd, struct handshake *h, bool *upgraded)
{
    *upgraded = false;
    ssize_t got = recv(fd, h->head + h->len, MAX_HEAD_BYTES - h->len, 0);
    if (got < 0)
        return errno == EAGAIN ? NULL : strerror(errno);
    if (got == 0)
        return "closed during the handshake";
    h->len += (uint32_t)got;
    h->head[h->len] = '\0';
    char *end = strstr(h->head, "\r\n\r\n");
    if (!end)
        return h->len == MAX_HEAD_BYTES ? "the response's head is longer than 4096 bytes" : NULL;
    char expected[WS_ACCEPT_CHARS + 1];
    size_t len = 0;
    accept_of_key(h->key, expected);
    const char *accept = header_value(h->head, "Sec-WebSocket-Accept", &len);
    if (strncmp(h->head, "HTTP/1.1 101", 12) != 0)
        return h->head;
    if (!accept || len != WS_ACCEPT_CHARS || memcmp(accept, expected, len) != 0)
        return "Sec-WebSocket-Accept is wrong";
    h->head_len = (uint32_t)(end + 4 - h->head);
    *upgraded = true;
    return NULL;
}

/* Size of a header as far as it is known: two bytes of it tell. */
static inline size_t header_size(const uint8_t *header, size_t have)
{
    if (have < 2)
        return 2;
    return header[1] < 126 ? 2 : header[1] == 126 ? 4 : 10;
}

static inline uint64_t header_payload(const uint8_t *header)
{
    if (header[1] < 126)
        return header[1];
    if (header[1] == 126)
        return (uint64_t)header[2] << 8 | header[3];
    uint64_t wire;
    memcpy(&wire, header + 2, 8);
    return be64toh(wire);
}

/* CPU seconds of a process from its threads' schedstat: nanoseconds, where /proc/PID/stat has ticks of 10 ms.
 * A thread that ended takes its time along, so the caller compares the thread counts of both ends. */
static inline double process_cpu_s(int pid, int *threads)
{
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/task", pid);
    DIR *tasks = opendir(path);
    if (!tasks)
        die(path);
    double total = 0;
    struct dirent *entry;
    *threads = 0;
    while ((entry = readdir(tasks))) {
        if (entry->d_name[0] == '.')
            continue;
        char stat_path[64 + sizeof entry->d_name + 16];
        snprintf(stat_path, sizeof stat_path, "%s/%s/schedstat", path, entry->d_name);
        FILE *file = fopen(stat_path, "r");
        if (!file)
            continue;
        unsigned long long on_cpu_ns = 0;
        if (fscanf(file, "%llu", &on_cpu_ns) == 1) {
            total += (double)on_cpu_ns / 1e9;
            ++*threads;
        }
        fclose(file);
    }
    closedir(tasks);
    return total;
}

/* CPU seconds that this machine was not idle, hypervisor's theft included: that is no time of ours either. */
static inline double machine_cpu_s(void)
{
    unsigned long long user, nice, system, idle, iowait, irq, softirq, steal;
    FILE *file = fopen("/proc/stat", "r");
    if (!file || fscanf(file, "cpu %llu %llu %llu %llu %llu %llu %llu %llu", &user, &nice, &system, &idle, &iowait,
                        &irq, &softirq, &steal) != 8)
        die("/proc/stat");
    fclose(file);
    return (double)(user + nice + system + irq + softirq + steal) / (double)sysconf(_SC_CLK_TCK);
}

/* For a string of JSON. */
static inline void make_quotable(char *text)
{
    for (char *p = text; *p; p++)
        if (*p == '"' || *p == '\\' || (unsigned char)*p < ' ')
            *p = '\'';
}

/* Say as JSON why there are no figures, and end. */
__attribute__((format(printf, 1, 2))) static inline _Noreturn void give_up(const char *format, ...)
{
    char text[160];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    make_quotable(text);
    printf("{\"error\": \"%s\"}\n", text);
    exit(1);
}

#endif
