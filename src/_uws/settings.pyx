# F6. See settings.pxd.

from libc.string cimport memset

from _uws.deflate cimport deflate_valid
from _uws.state cimport UWS_OVERFLOW_DROP_OLDEST

cdef tuple SETTINGS = (
    "max_message_bytes", "max_stream_bytes", "streaming", "max_fragments",
    "max_header_bytes", "max_header_fields", "max_line_bytes",
    "handshake_timeout_ms", "request_timeout_ms", "close_timeout_ms", "ping_interval_ms", "ping_timeout_ms",
    "send_timeout_ms", "idle_timeout_ms", "max_lifetime_ms", "max_pings_per_second", "max_incomplete_total_bytes",
    "max_buffered_bytes", "high_water_bytes", "low_water_bytes", "overflow", "max_buffered_total_bytes",
    "max_inbox_bytes", "max_inbox_messages",
    "max_inbox_total_bytes", "max_connections", "schedule_timeout_us", "cooldown_us", "io_timeout_us", "runners",
    "jobs", "proxy_protocol", "private_fds", "compression", "compression_level", "compression_mem_level",
    "compression_server_takeover", "compression_client_takeover", "compression_server_bits",
    "compression_client_bits", "compression_threshold",
)


cdef int settings_read(UwsSettings* out, dict settings) except -1:
    """Every setting is read before anything is made of them: one that is refused leaves nothing behind."""
    cdef UwsLimits* limits = &out.limits
    for name in SETTINGS:
        if name not in settings:
            raise KeyError(name)
    for name in settings:
        if name not in SETTINGS:
            raise KeyError(name)
    memset(out, 0, sizeof(UwsSettings))
    limits.upgrade.max_head_bytes = settings["max_header_bytes"]
    limits.upgrade.max_fields = settings["max_header_fields"]
    limits.upgrade.max_line_bytes = settings["max_line_bytes"]
    limits.handshake_timeout_ms = settings["handshake_timeout_ms"]
    limits.request_timeout_ms = settings["request_timeout_ms"]
    limits.close_timeout_ms = settings["close_timeout_ms"]
    limits.ping_interval_ms = settings["ping_interval_ms"]
    limits.ping_timeout_ms = settings["ping_timeout_ms"]
    limits.send_timeout_ms = settings["send_timeout_ms"]
    limits.idle_timeout_ms = settings["idle_timeout_ms"]
    limits.max_lifetime_ms = settings["max_lifetime_ms"]
    limits.max_pings = settings["max_pings_per_second"]
    limits.max_partial_bytes = settings["max_incomplete_total_bytes"]
    limits.max_buffered_bytes = settings["max_buffered_bytes"]
    limits.high_bytes = settings["high_water_bytes"]
    limits.low_bytes = settings["low_water_bytes"]
    # Whoever is told that the queue is above the mark is to know that the kernel would not take it.
    limits.cork_bytes = min(<size_t>UWS_CORK_BYTES, limits.high_bytes + 1)
    limits.overflow = settings["overflow"]
    if limits.overflow > UWS_OVERFLOW_DROP_OLDEST:
        raise ValueError("overflow: there is no such policy")
    limits.max_out_bytes = settings["max_buffered_total_bytes"]
    limits.max_inbox_bytes = settings["max_inbox_bytes"]
    limits.max_inbox_messages = settings["max_inbox_messages"]
    limits.max_inbox_total_bytes = settings["max_inbox_total_bytes"]
    limits.max_connections = settings["max_connections"]
    limits.schedule_timeout_us = settings["schedule_timeout_us"]
    limits.schedule_timeout_us = max(limits.schedule_timeout_us, UWS_MIN_SCHEDULE_US)
    limits.cooldown_us = settings["cooldown_us"]
    limits.io_timeout_us = settings["io_timeout_us"]
    limits.jobs = settings["jobs"]
    limits.proxy_protocol = settings["proxy_protocol"]
    limits.private_fds = settings["private_fds"]
    limits.deflate.enabled = settings["compression"]
    limits.deflate.level = settings["compression_level"]
    limits.deflate.mem_level = settings["compression_mem_level"]
    limits.deflate.server_takeover = settings["compression_server_takeover"]
    limits.deflate.client_takeover = settings["compression_client_takeover"]
    limits.deflate.server_bits = settings["compression_server_bits"]
    limits.deflate.client_bits = settings["compression_client_bits"]
    limits.deflate.threshold_bytes = settings["compression_threshold"]
    if not deflate_valid(&limits.deflate):
        raise ValueError("compression: a setting is out of range")
    out.max_message_bytes = settings["max_message_bytes"]
    out.max_stream_bytes = settings["max_stream_bytes"]
    out.max_fragments = settings["max_fragments"]
    out.streaming = settings["streaming"]
    out.runners = settings["runners"]
    return 0
