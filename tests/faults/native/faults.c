/* Makes what the engine asks of the kernel and of the allocators fail, or fall short, on its n-th call.
 *
 * Preloaded, so that each call goes through here. One that does not come from a module of the engine goes on as if this
 * were not here: sockets of clients, the interpreter, other libraries. Told what to do by tests/faults/shim.py, in the
 * same process; tests/faults/failing_calls.py has the cases.
 */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#define EXPORTED __attribute__((visibility("default")))
#define SITE __builtin_return_address(0)

/* The names are those of shim.CALLS, in the same order. */
#define CALLS(X)                                                                                                       \
    X(accept4) X(bind) X(calloc) X(close) X(connect) X(cond_wait) X(epoll_create1) X(epoll_ctl_add) X(epoll_ctl_mod)   \
    X(epoll_wait) X(eventfd) X(getpeername) X(getrandom) X(getrlimit) X(getsockname) X(getsockopt) X(ioctl)            \
    X(madvise) X(malloc) X(mincore) X(mmap) X(mremap) X(munmap) X(mutex_trylock) X(open) X(poll)                       \
    X(pthread_attr_setstacksize) X(pthread_create) X(pthread_getattr_np) X(read) X(realloc) X(recv) X(send) X(sendmsg) \
    X(setsockopt) X(shutdown) X(socket) X(syscall) X(write) X(slab_take) X(slab_grow) X(python)

#define AS_ENUM(name) CALL_##name,
enum { CALLS(AS_ENUM) N_CALLS };

#define AS_TEXT(name) #name " "
EXPORTED const char faults_names[] = CALLS(AS_TEXT);

/* How a call falls short where it does not fail; a positive number is an errno. */
enum {
    HOW_NOT = 0,
    HOW_ONE = -1,             /* one byte, or one event */
    HOW_HALF = -2,            /* half of it */
    HOW_NOTHING = -3          /* at once, with nothing: the end of a stream, no event, a spurious wake-up */
};

enum { MAX_MODULES = 128, MAX_ARMED = 4, MAX_HOWS = 16, N_SITES = 8192 };

struct armed {
    _Atomic int call;
    _Atomic int how;
    _Atomic int64_t first;    /* which call of its kind since counting began; from 0 */
    _Atomic int64_t times;
};

struct site {
    _Atomic uintptr_t at;     /* the address behind the call */
    _Atomic int call;
    _Atomic uint64_t seen;
    _Atomic uint64_t failed;
};

static _Atomic int is_on;
static uintptr_t bounds[2 * MAX_MODULES];
static int n_bounds;
static struct armed armed[MAX_ARMED];
static _Atomic int n_armed;
static _Atomic uint64_t seed;
static _Atomic uint32_t per_million;
static int hows[N_CALLS][MAX_HOWS];
static int n_hows[N_CALLS];
static _Atomic int64_t seen[N_CALLS];
static _Atomic int64_t fired;
static struct site sites[N_SITES];
static __thread int is_marked __attribute__((tls_model("initial-exec")));

/* ---- whether it is this call's turn */

static int is_engine(uintptr_t at)
{
    int low = 0, high = n_bounds;
    while (low < high) {
        int middle = (low + high) / 2;
        if (at < bounds[middle])
            high = middle;
        else
            low = middle + 1;
    }
    /* Pairs of a beginning and an end: within one there is an odd number of bounds before. */
    return low & 1;
}

static struct site *site_of(int call, uintptr_t at)
{
    size_t i = (at * UINT64_C(0x9E3779B97F4A7C15) >> 40) % N_SITES;
    for (int tries = 0; tries < N_SITES; tries++, i = (i + 1) % N_SITES) {
        uintptr_t there = atomic_load(&sites[i].at);
        if (there == 0) {
            if (atomic_compare_exchange_strong(&sites[i].at, &there, at)) {
                atomic_store(&sites[i].call, call);
                return &sites[i];
            }
        }
        if (there == at)
            return &sites[i];
    }
    return NULL;
}

static uint64_t mixed(uint64_t x)
{
    x ^= x >> 30;
    x *= UINT64_C(0xBF58476D1CE4E5B9);
    x ^= x >> 27;
    x *= UINT64_C(0x94D049BB133111EB);
    return x ^ x >> 31;
}

static int how_at(int call, int64_t number)
{
    int n = atomic_load(&n_armed);
    for (int k = 0; k < n; k++) {
        int64_t first = atomic_load(&armed[k].first);
        if (atomic_load(&armed[k].call) == call && number >= first && number - first < atomic_load(&armed[k].times))
            return atomic_load(&armed[k].how);
    }
    if (atomic_load(&per_million) != 0 && n_hows[call] != 0) {
        uint64_t dice = mixed(mixed(atomic_load(&seed) + (uint64_t)call) + (uint64_t)number);
        if (dice % 1000000 < atomic_load(&per_million))
            return hows[call][(dice >> 32) % (uint64_t)n_hows[call]];
    }
    return HOW_NOT;
}

static int count(int call, uintptr_t at)
{
    struct site *site = site_of(call, at);
    int how = how_at(call, atomic_fetch_add(&seen[call], 1));
    if (site != NULL)
        atomic_fetch_add(&site->seen, 1);
    if (how != HOW_NOT) {
        atomic_fetch_add(&fired, 1);
        if (site != NULL)
            atomic_fetch_add(&site->failed, 1);
    }
    return how;
}

/* How the call that returns to `from` is to fail, if at all. */
static int due(int call, const void *from)
{
    if (!atomic_load_explicit(&is_on, memory_order_acquire) || !is_engine((uintptr_t)from))
        return HOW_NOT;
    return count(call, (uintptr_t)from);
}

/* ---- orders, from Python */

/* Where the engine's code is: sorted pairs of a beginning and an end. */
EXPORTED int faults_modules(const uint64_t *pairs, int n)
{
    if (n < 0 || n > MAX_MODULES)
        return -1;
    for (int i = 0; i < 2 * n; i++)
        bounds[i] = (uintptr_t)pairs[i];
    n_bounds = 2 * n;
    return 0;
}

/* What may become of a call where it is left to chance. */
EXPORTED int faults_may(int call, const int *which, int n)
{
    if (call < 0 || call >= N_CALLS || n < 0 || n > MAX_HOWS)
        return -1;
    memcpy(hows[call], which, (size_t)n * sizeof(int));
    n_hows[call] = n;
    return 0;
}

EXPORTED void faults_off(void)
{
    atomic_store(&is_on, 0);
    atomic_store(&n_armed, 0);
    atomic_store(&per_million, 0);
}

/* Count from now on. What is to fail has been said before. */
EXPORTED void faults_on(void)
{
    for (int call = 0; call < N_CALLS; call++)
        atomic_store(&seen[call], 0);
    atomic_store(&fired, 0);
    atomic_store_explicit(&is_on, 1, memory_order_release);
}

EXPORTED int faults_arm(int call, int how, int64_t first, int64_t times)
{
    int n = atomic_load(&n_armed);
    if (n == MAX_ARMED)
        return -1;
    atomic_store(&armed[n].call, call);
    atomic_store(&armed[n].how, how);
    atomic_store(&armed[n].first, first);
    atomic_store(&armed[n].times, times);
    atomic_store(&n_armed, n + 1);
    return 0;
}

EXPORTED void faults_chance(uint64_t from, uint32_t parts_per_million)
{
    atomic_store(&seed, from);
    atomic_store(&per_million, parts_per_million);
}

EXPORTED int64_t faults_fired(void)
{
    return atomic_load(&fired);
}

EXPORTED int faults_seen(int64_t *out, int n)
{
    for (int call = 0; call < N_CALLS && call < n; call++)
        out[call] = atomic_load(&seen[call]);
    return N_CALLS;
}

/* All places from which calls have come: four numbers each. Returns how many there are. */
EXPORTED int faults_sites(uint64_t *out, int cap)
{
    int n = 0;
    for (int i = 0; i < N_SITES; i++) {
        if (atomic_load(&sites[i].at) == 0)
            continue;
        if (n < cap) {
            out[4 * n] = atomic_load(&sites[i].at);
            out[4 * n + 1] = (uint64_t)atomic_load(&sites[i].call);
            out[4 * n + 2] = atomic_load(&sites[i].seen);
            out[4 * n + 3] = atomic_load(&sites[i].failed);
        }
        n++;
    }
    return n;
}

/* ---- the C library */

#define REAL(name)                                                                                                     \
    static __typeof__(name) *real;                                                                                     \
    if (real == NULL)                                                                                                  \
        real = (__typeof__(name) *)dlsym(RTLD_NEXT, #name)

#define FAIL(call, value)                                                                                              \
    int how = due(CALL_##call, SITE);                                                                                  \
    if (how > 0) {                                                                                                     \
        errno = how;                                                                                                   \
        return value;                                                                                                  \
    }

static size_t shortened(int how, size_t len)
{
    if (how == HOW_ONE)
        return len != 0 ? 1 : 0;
    return how == HOW_HALF ? (len + 1) / 2 : len;
}

EXPORTED int accept4(int fd, __SOCKADDR_ARG addr, socklen_t *len, int flags)
{
    REAL(accept4);
    FAIL(accept4, -1)
    return real(fd, addr, len, flags);
}

EXPORTED int bind(int fd, __CONST_SOCKADDR_ARG addr, socklen_t len)
{
    REAL(bind);
    FAIL(bind, -1)
    return real(fd, addr, len);
}

EXPORTED int connect(int fd, __CONST_SOCKADDR_ARG addr, socklen_t len)
{
    REAL(connect);
    FAIL(connect, -1)
    return real(fd, addr, len);
}

EXPORTED int socket(int domain, int type, int protocol)
{
    REAL(socket);
    FAIL(socket, -1)
    return real(domain, type, protocol);
}

EXPORTED int setsockopt(int fd, int level, int name, const void *value, socklen_t len)
{
    REAL(setsockopt);
    FAIL(setsockopt, -1)
    return real(fd, level, name, value, len);
}

EXPORTED int getsockopt(int fd, int level, int name, void *value, socklen_t *len)
{
    REAL(getsockopt);
    FAIL(getsockopt, -1)
    return real(fd, level, name, value, len);
}

EXPORTED int getsockname(int fd, __SOCKADDR_ARG addr, socklen_t *len)
{
    REAL(getsockname);
    FAIL(getsockname, -1)
    return real(fd, addr, len);
}

EXPORTED int getpeername(int fd, __SOCKADDR_ARG addr, socklen_t *len)
{
    REAL(getpeername);
    FAIL(getpeername, -1)
    return real(fd, addr, len);
}

EXPORTED int shutdown(int fd, int which)
{
    REAL(shutdown);
    FAIL(shutdown, -1)
    return real(fd, which);
}

EXPORTED ssize_t recv(int fd, void *data, size_t len, int flags)
{
    REAL(recv);
    FAIL(recv, -1)
    if (how == HOW_NOTHING)
        return 0;
    return real(fd, data, shortened(how, len), flags);
}

EXPORTED ssize_t send(int fd, const void *data, size_t len, int flags)
{
    REAL(send);
    FAIL(send, -1)
    return real(fd, data, shortened(how, len), flags);
}

EXPORTED ssize_t sendmsg(int fd, const struct msghdr *message, int flags)
{
    REAL(sendmsg);
    FAIL(sendmsg, -1)
    struct iovec parts[64];
    struct msghdr less = *message;
    size_t total = 0, left;
    size_t n = 0;
    if (how == HOW_NOT || message->msg_iovlen > 64)
        return real(fd, message, flags);
    for (size_t i = 0; i < message->msg_iovlen; i++)
        total += message->msg_iov[i].iov_len;
    left = shortened(how, total);
    while (n < message->msg_iovlen && left != 0) {
        parts[n] = message->msg_iov[n];
        if (parts[n].iov_len > left)
            parts[n].iov_len = left;
        left -= parts[n].iov_len;
        n++;
    }
    less.msg_iov = parts;
    less.msg_iovlen = n;
    return real(fd, &less, flags);
}

EXPORTED ssize_t read(int fd, void *data, size_t len)
{
    REAL(read);
    FAIL(read, -1)
    return real(fd, data, len);
}

EXPORTED ssize_t write(int fd, const void *data, size_t len)
{
    REAL(write);
    FAIL(write, -1)
    return real(fd, data, len);
}

/* Whatever close() says, the descriptor is gone. */
EXPORTED int close(int fd)
{
    REAL(close);
    int how = due(CALL_close, SITE);
    int result = real(fd);
    if (how > 0 && result == 0) {
        errno = how;
        return -1;
    }
    return result;
}

static int opened(const char *name, const char *path, int flags, mode_t mode, int how)
{
    int (*real)(const char *, int, ...) = (int (*)(const char *, int, ...))dlsym(RTLD_NEXT, name);
    if (how > 0) {
        errno = how;
        return -1;
    }
    return real(path, flags, mode);
}

static mode_t mode_of(int flags, va_list more)
{
    return flags & (O_CREAT | O_TMPFILE) ? va_arg(more, mode_t) : 0;
}

EXPORTED int open(const char *path, int flags, ...)
{
    va_list more;
    va_start(more, flags);
    mode_t mode = mode_of(flags, more);
    va_end(more);
    return opened("open", path, flags, mode, due(CALL_open, SITE));
}

EXPORTED int open64(const char *path, int flags, ...)
{
    va_list more;
    va_start(more, flags);
    mode_t mode = mode_of(flags, more);
    va_end(more);
    return opened("open64", path, flags, mode, due(CALL_open, SITE));
}

EXPORTED int ioctl(int fd, unsigned long request, ...)
{
    REAL(ioctl);
    va_list more;
    va_start(more, request);
    void *argument = va_arg(more, void *);
    va_end(more);
    FAIL(ioctl, -1)
    return real(fd, request, argument);
}

EXPORTED int poll(struct pollfd *fds, nfds_t n, int timeout)
{
    REAL(poll);
    FAIL(poll, -1)
    if (how == HOW_NOTHING)
        return 0;
    return real(fds, n, timeout);
}

EXPORTED int epoll_create1(int flags)
{
    REAL(epoll_create1);
    FAIL(epoll_create1, -1)
    return real(flags);
}

/* Taking one out allocates nothing, and cannot fail for one that is in. */
EXPORTED int epoll_ctl(int epoll, int op, int fd, struct epoll_event *event)
{
    REAL(epoll_ctl);
    int how = HOW_NOT;
    if (op == EPOLL_CTL_ADD)
        how = due(CALL_epoll_ctl_add, SITE);
    else if (op == EPOLL_CTL_MOD)
        how = due(CALL_epoll_ctl_mod, SITE);
    if (how > 0) {
        errno = how;
        return -1;
    }
    return real(epoll, op, fd, event);
}

EXPORTED int epoll_wait(int epoll, struct epoll_event *events, int max, int timeout)
{
    REAL(epoll_wait);
    FAIL(epoll_wait, -1)
    if (how == HOW_NOTHING)
        return 0;
    return real(epoll, events, how == HOW_ONE ? 1 : max, timeout);
}

EXPORTED int eventfd(unsigned int value, int flags)
{
    REAL(eventfd);
    FAIL(eventfd, -1)
    return real(value, flags);
}

EXPORTED ssize_t getrandom(void *data, size_t len, unsigned int flags)
{
    REAL(getrandom);
    FAIL(getrandom, -1)
    return real(data, len, flags);
}

EXPORTED int getrlimit(__rlimit_resource_t which, struct rlimit *limits)
{
    REAL(getrlimit);
    FAIL(getrlimit, -1)
    return real(which, limits);
}

EXPORTED int getrlimit64(__rlimit_resource_t which, struct rlimit64 *limits)
{
    REAL(getrlimit64);
    FAIL(getrlimit, -1)
    return real(which, limits);
}

EXPORTED void *mmap(void *at, size_t len, int protection, int flags, int fd, off_t offset)
{
    REAL(mmap);
    FAIL(mmap, MAP_FAILED)
    return real(at, len, protection, flags, fd, offset);
}

EXPORTED void *mmap64(void *at, size_t len, int protection, int flags, int fd, off64_t offset)
{
    REAL(mmap64);
    FAIL(mmap, MAP_FAILED)
    return real(at, len, protection, flags, fd, offset);
}

EXPORTED void *mremap(void *at, size_t len, size_t want, int flags, ...)
{
    REAL(mremap);
    void *to = NULL;
    if (flags & MREMAP_FIXED) {
        va_list more;
        va_start(more, flags);
        to = va_arg(more, void *);
        va_end(more);
    }
    FAIL(mremap, MAP_FAILED)
    return real(at, len, want, flags, to);
}

EXPORTED int munmap(void *at, size_t len)
{
    REAL(munmap);
    FAIL(munmap, -1)
    return real(at, len);
}

EXPORTED int madvise(void *at, size_t len, int advice)
{
    REAL(madvise);
    FAIL(madvise, -1)
    return real(at, len, advice);
}

EXPORTED int mincore(void *at, size_t len, unsigned char *pages)
{
    REAL(mincore);
    FAIL(mincore, -1)
    return real(at, len, pages);
}

EXPORTED long syscall(long number, ...)
{
    REAL(syscall);
    long a[6];
    va_list more;
    va_start(more, number);
    for (int i = 0; i < 6; i++)
        a[i] = va_arg(more, long);
    va_end(more);
    FAIL(syscall, -1)
    return real(number, a[0], a[1], a[2], a[3], a[4], a[5]);
}

/* dlsym() may allocate, so these do not ask it. */
extern void *__libc_malloc(size_t);
extern void *__libc_calloc(size_t, size_t);
extern void *__libc_realloc(void *, size_t);

EXPORTED void *malloc(size_t len)
{
    FAIL(malloc, NULL)
    return __libc_malloc(len);
}

EXPORTED void *calloc(size_t n, size_t len)
{
    FAIL(calloc, NULL)
    return __libc_calloc(n, len);
}

EXPORTED void *realloc(void *block, size_t len)
{
    FAIL(realloc, NULL)
    return __libc_realloc(block, len);
}

/* ---- threads; they return what others leave in errno */

EXPORTED int pthread_create(pthread_t *thread, const pthread_attr_t *attr, void *(*run)(void *), void *arg)
{
    REAL(pthread_create);
    int how = due(CALL_pthread_create, SITE);
    return how > 0 ? how : real(thread, attr, run, arg);
}

EXPORTED int pthread_attr_setstacksize(pthread_attr_t *attr, size_t len)
{
    REAL(pthread_attr_setstacksize);
    int how = due(CALL_pthread_attr_setstacksize, SITE);
    return how > 0 ? how : real(attr, len);
}

EXPORTED int pthread_getattr_np(pthread_t thread, pthread_attr_t *attr)
{
    REAL(pthread_getattr_np);
    int how = due(CALL_pthread_getattr_np, SITE);
    return how > 0 ? how : real(thread, attr);
}

/* Somebody else has it, and lets go of it at once. */
EXPORTED int pthread_mutex_trylock(pthread_mutex_t *mutex)
{
    REAL(pthread_mutex_trylock);
    int how = due(CALL_mutex_trylock, SITE);
    return how > 0 ? how : real(mutex);
}

/* Nobody has signalled. */
static void wake_for_nothing(pthread_mutex_t *mutex)
{
    pthread_mutex_unlock(mutex);
    sched_yield();
    pthread_mutex_lock(mutex);
}

/* There are two of each in the C library of some machines, and the older one is not the one meant. */
static void *of_today(const char *name)
{
    void *found = dlvsym(RTLD_NEXT, name, "GLIBC_2.3.2");
    return found != NULL ? found : dlsym(RTLD_NEXT, name);
}

EXPORTED int pthread_cond_wait(pthread_cond_t *cond, pthread_mutex_t *mutex)
{
    static __typeof__(pthread_cond_wait) *real;
    if (real == NULL)
        real = (__typeof__(pthread_cond_wait) *)of_today("pthread_cond_wait");
    if (due(CALL_cond_wait, SITE) != HOW_NOT) {
        wake_for_nothing(mutex);
        return 0;
    }
    return real(cond, mutex);
}

EXPORTED int pthread_cond_timedwait(pthread_cond_t *cond, pthread_mutex_t *mutex, const struct timespec *until)
{
    static __typeof__(pthread_cond_timedwait) *real;
    if (real == NULL)
        real = (__typeof__(pthread_cond_timedwait) *)of_today("pthread_cond_timedwait");
    if (due(CALL_cond_wait, SITE) != HOW_NOT) {
        wake_for_nothing(mutex);
        return 0;
    }
    return real(cond, mutex, until);
}

/* ---- the engine's own allocator. Its modules call each other through pointers: these stand in their place. */

typedef void *(*take_fn)(void *slab, size_t want, size_t *got);
typedef void *(*grow_fn)(void *slab, void *block, size_t used, size_t want, size_t *got);

static take_fn real_take;
static grow_fn real_grow;

EXPORTED void *faults_slab_take(void *slab, size_t want, size_t *got)
{
    return due(CALL_slab_take, SITE) != HOW_NOT ? NULL : real_take(slab, want, got);
}

EXPORTED void *faults_slab_grow(void *slab, void *block, size_t used, size_t want, size_t *got)
{
    return due(CALL_slab_grow, SITE) != HOW_NOT ? NULL : real_grow(slab, block, used, want, got);
}

EXPORTED void faults_slab(take_fn take, grow_fn grow)
{
    real_take = take;
    real_grow = grow;
}

/* ---- the interpreter's allocators, in threads that were marked. The same shape as PyMemAllocatorEx. */

struct allocator {
    void *ctx;
    void *(*malloc)(void *ctx, size_t len);
    void *(*calloc)(void *ctx, size_t n, size_t len);
    void *(*realloc)(void *ctx, void *block, size_t len);
    void (*free)(void *ctx, void *block);
};

enum { DOMAINS = 3 };         /* raw, memory, objects */

static struct allocator was[DOMAINS];

static int python_fails(void)
{
    if (!is_marked || !atomic_load_explicit(&is_on, memory_order_acquire))
        return 0;
    /* Where it was asked for cannot be told: the interpreter is in between. */
    return count(CALL_python, 1) != HOW_NOT;
}

static void *python_malloc(void *ctx, size_t len)
{
    struct allocator *real = ctx;
    return python_fails() ? NULL : real->malloc(real->ctx, len);
}

static void *python_calloc(void *ctx, size_t n, size_t len)
{
    struct allocator *real = ctx;
    return python_fails() ? NULL : real->calloc(real->ctx, n, len);
}

static void *python_realloc(void *ctx, void *block, size_t len)
{
    struct allocator *real = ctx;
    return python_fails() ? NULL : real->realloc(real->ctx, block, len);
}

static void python_free(void *ctx, void *block)
{
    struct allocator *real = ctx;
    real->free(real->ctx, block);
}

typedef void (*allocator_fn)(int domain, struct allocator *which);

EXPORTED void faults_python(allocator_fn get, allocator_fn set)
{
    for (int domain = 0; domain < DOMAINS; domain++) {
        struct allocator ours = {&was[domain], python_malloc, python_calloc, python_realloc, python_free};
        get(domain, &was[domain]);
        set(domain, &ours);
    }
}

/* The calling thread runs callbacks. */
EXPORTED void faults_mark(int marked)
{
    is_marked = marked;
}
