/* zlib, or zlib-ng under its own names (-DUWS_ZLIB_NG=1): one set of names for both, so that deflate.pyx need
   not know which it got. zlib-ng's compatibility mode is zlib to us. */
#ifndef UWS_ZLIB_ANY_H
#define UWS_ZLIB_ANY_H

#include <string.h>

#if UWS_ZLIB_NG
#include <zlib-ng.h>
typedef zng_stream uws_z_stream;
#define UWS_Z(name) zng_##name
#define UWS_Z_NAME "zlib-ng " ZLIBNG_VERSION
#else
/* next_in as a pointer to const. */
#define ZLIB_CONST
#include <zlib.h>
typedef z_stream uws_z_stream;
#define UWS_Z(name) name
#define UWS_Z_NAME "zlib " ZLIB_VERSION
#endif

/* Memory for a context; NULL in the streams' zalloc means malloc. */
typedef void *(*uws_z_alloc)(void *opaque, unsigned items, unsigned size);
typedef void (*uws_z_free)(void *opaque, void *block);

static inline void uws_z_prepare(uws_z_stream *z, uws_z_alloc alloc, uws_z_free release, void *opaque)
{
    memset(z, 0, sizeof *z);
    z->zalloc = alloc;
    z->zfree = release;
    z->opaque = opaque;
}

static inline int uws_deflate_init(uws_z_stream *z, int level, int window_bits, int mem_level, int strategy)
{
    return UWS_Z(deflateInit2)(z, level, Z_DEFLATED, -window_bits, mem_level, strategy);
}

static inline int uws_inflate_init(uws_z_stream *z, int window_bits)
{
    return UWS_Z(inflateInit2)(z, -window_bits);
}

static inline int uws_deflate(uws_z_stream *z, int flush) { return UWS_Z(deflate)(z, flush); }
static inline int uws_inflate(uws_z_stream *z, int flush) { return UWS_Z(inflate)(z, flush); }
static inline int uws_deflate_reset(uws_z_stream *z) { return UWS_Z(deflateReset)(z); }
static inline int uws_inflate_reset(uws_z_stream *z) { return UWS_Z(inflateReset)(z); }
/* Ready for another stream, whose matches may still reach back into this one. In zlib.h it is one of the
   "undocumented functions", exported since 1.2.5.1, and by zlib-ng. */
static inline int uws_inflate_go_on(uws_z_stream *z) { return UWS_Z(inflateResetKeep)(z); }
static inline void uws_deflate_end(uws_z_stream *z) { (void)UWS_Z(deflateEnd)(z); }
static inline void uws_inflate_end(uws_z_stream *z) { (void)UWS_Z(inflateEnd)(z); }

#endif
