/* Preloaded into a server: while the file that STARVED names exists, the system has no room for another open file.
 *
 * accept4() fails with ENFILE, and so does open() of /dev/null, which is what a spare descriptor is kept on. From the real
 * limit root is exempt, and everybody else on the machine is not. Each accept4() that fails makes the file longer by a
 * byte: whoever made the file can see how often the server has tried.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static int really_open(const char *path, int flags, mode_t mode)
{
    int (*next)(const char *, int, ...) = (int (*)(const char *, int, ...))dlsym(RTLD_NEXT, "open");
    return next(path, flags, mode);
}

/* Whether there is no room; noted where `note` is not 0. */
static int is_starved(int note)
{
    const char *path = getenv("STARVED");
    int error = errno;
    int fd = path ? really_open(path, O_WRONLY | O_APPEND | O_CLOEXEC, 0) : -1;
    if (fd < 0) {
        errno = error;
        return 0;
    }
    if (note && write(fd, ".", 1) != 1)
        abort();
    close(fd);
    errno = ENFILE;
    return 1;
}

int accept4(int fd, struct sockaddr *restrict address, socklen_t *restrict len, int flags)
{
    int (*next)(int, struct sockaddr *, socklen_t *, int) =
        (int (*)(int, struct sockaddr *, socklen_t *, int))dlsym(RTLD_NEXT, "accept4");
    return is_starved(1) ? -1 : next(fd, address, len, flags);
}

int open(const char *path, int flags, ...)
{
    va_list args;
    va_start(args, flags);
    mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(args, mode_t) : 0;
    va_end(args);
    if (strcmp(path, "/dev/null") == 0 && is_starved(0))
        return -1;
    return really_open(path, flags, mode);
}
