/* F0. What the headers of older systems lack: wheels are built with those of glibc 2.17 (manylinux2014).
   Owns nothing. Included for epoll by poller.pxd, for random bytes by entropy.pyx and loop.pyx. */

#ifndef UWS_COMPAT_H
#define UWS_COMPAT_H

#include <features.h>
#include <sys/epoll.h>
#include <sys/types.h>

/* Linux 4.5, glibc 2.24. */
#ifndef EPOLLEXCLUSIVE
#define EPOLLEXCLUSIVE (1u << 28)
#endif

/* Linux 3.17, glibc 2.25. */
#ifdef __GLIBC__
#if !__GLIBC_PREREQ(2, 25)
#define UWS_NO_GETRANDOM 1
#endif
#endif

#ifdef UWS_NO_GETRANDOM

#include <sys/syscall.h>
#include <unistd.h>

#ifndef SYS_getrandom
#if defined(__x86_64__)
#define SYS_getrandom 318
#elif defined(__aarch64__)
#define SYS_getrandom 278
#else
#error "no getrandom() in the C library, and no number of the system call"
#endif
#endif

static inline ssize_t uws_getrandom(void *room, size_t len_bytes, unsigned int flags)
{
    return syscall(SYS_getrandom, room, len_bytes, flags);
}

#else

#include <sys/random.h>

static inline ssize_t uws_getrandom(void *room, size_t len_bytes, unsigned int flags)
{
    return getrandom(room, len_bytes, flags);
}

#endif

#endif
