/* F0. Tells AddressSanitizer which bytes of the slab are nobody's; in a build without it, nothing.
 * Owns nothing. Used by slab.pyx. In C because only the preprocessor knows which build this is. */
#ifndef UWS_POISON_H
#define UWS_POISON_H

#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#define UWS_HAS_ASAN 1
#endif
#elif defined(__SANITIZE_ADDRESS__)
#define UWS_HAS_ASAN 1
#endif

#ifdef UWS_HAS_ASAN
#include <sanitizer/asan_interface.h>
#define uws_poison(p, len_bytes) __asan_poison_memory_region(p, len_bytes)
#define uws_unpoison(p, len_bytes) __asan_unpoison_memory_region(p, len_bytes)
#else
#define uws_poison(p, len_bytes) ((void)(p), (void)(len_bytes))
#define uws_unpoison(p, len_bytes) ((void)(p), (void)(len_bytes))
#endif

#endif
