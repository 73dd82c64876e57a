"""The callbacks of a server's connections: what it calls, when, and with what. `Server` has them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

from _uws.conn import Conn

from .fragment import Fragment
from .hooks import Hook

__all__ = ["Callbacks", "ConnHook", "ErrorHook", "FragmentHook", "MessageHook", "PongHook"]

ConnHook: TypeAlias = Callable[[Conn], object]
PongHook: TypeAlias = Callable[[Conn, bytes], object]
FragmentHook: TypeAlias = Callable[[Conn, Fragment], object]
MessageHook: TypeAlias = Callable[[Conn, Any], object]
ErrorHook: TypeAlias = Callable[[Any, BaseException], object]


class Callbacks:
    """The hooks of connections; those of requests are `Entrance`'s."""

    on_connect: Hook[ConnHook] = Hook()
    """``on_connect(conn)``: a connection is open. Runs before its first message is delivered."""

    on_read: Hook[ConnHook] = Hook()
    """``on_read(conn)``: once per message; `wsutil.read_client_data` reads it, or it is dropped. Raising
    closes the connection with 1011."""

    on_message: Hook[MessageHook] = Hook()
    """``on_message(conn, message)``: `str` for text, `bytes` for binary. Used instead of `on_read` where it
    is set. Raising closes the connection with 1011."""

    on_fragment: Hook[FragmentHook] = Hook()
    """``on_fragment(conn, fragment)``: a piece of a message, as it was received, long before the message is whole; see
    `Fragment`. Used instead of `on_read` and `on_message` where it is set, for messages up to `max_stream_bytes`; a
    compressed one comes as one piece. Raising closes the connection with 1011. Where the hook is taken away in the
    middle of a message, the rest of it is dropped."""

    on_pong: Hook[PongHook] = Hook()
    """``on_pong(conn, payload)``: the peer's pong, with the bytes of the ping that it answers, or with others: a
    peer may send one unasked. Pongs line up with messages, and wait while a callback of the connection runs; one that
    comes while `on_read` waits for a further message is dropped. Raising closes the connection with 1011."""

    on_drain: Hook[ConnHook] = Hook()
    """``on_drain(conn)``: what waits to be sent is down to `low_water_bytes`, after `conn.send` had said `Sent.HIGH`.
    Once for each time, though two that were not told yet are told as one. It does not line up behind messages, and
    comes also while the connection is paused; never after `on_close`."""

    on_close: Hook[ConnHook] = Hook()
    """``on_close(conn)``: the connection is closed; `conn.close_code` and `conn.close_reason` tell why. The
    last callback of a connection, and exactly one for each that was open."""

    on_error: Hook[ErrorHook] = Hook()
    """``on_error(conn, exc)``: a callback raised. It has been logged; the connection is closed afterwards. Where
    it was a hook of the handshake, or a route, there is no connection yet: then it gets the `Request`. None stands for
    either where there was no memory to make one, and so to call the hook: `exc` is a `MemoryError` then."""
