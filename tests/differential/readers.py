"""Who reads the streams: our engine, `websockets` and `wsproto`, each without I/O, brought to one form.

What the peers leave to their callers is done here: joining fragments, and reading text as text.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from raw import CLOSE, CONT, PING, PONG, TEXT
from uws_shims.proto_shim import Proto, close_code
from websockets.extensions.permessage_deflate import PerMessageDeflate
from websockets.frames import Frame
from websockets.protocol import State
from websockets.server import ServerProtocol
from wsproto import events as wsproto_events
from wsproto.connection import Connection, ConnectionType
from wsproto.extensions import PerMessageDeflate as WsprotoDeflate

from .reading import Event, Utf8
from .streams import Terms


class Outcome(NamedTuple):
    """The events, and the close code with which the connection is failed; None: it is not."""

    events: list[Event]
    code: int | None


def ours(pieces: Iterable[bytes], terms: Terms | None, limit: int) -> Outcome:
    if terms is None:
        proto = Proto(max_message_bytes=limit)
    else:
        # Where no context is kept, one inflater with the largest window serves all.
        proto = Proto(window_bits=15, kept=terms.takeover, client_bits=terms.bits, max_message_bytes=limit)
    events: list[Event] = []
    for piece in pieces:
        status, found = proto.feed(piece)
        for event in found:
            if event.kind == "message":
                events.append(("message", event.opcode, event.payload))
            elif event.kind == "close":
                assert event.reply == event.code
                events.append(("close", event.code, event.payload))
            else:
                events.append((event.kind, event.payload))
        if status:
            return Outcome(events, close_code(status))
    return Outcome(events, None)


def websockets(pieces: Iterable[bytes], terms: Terms | None, limit: int) -> Outcome:
    peer = ServerProtocol(state=State.OPEN, max_size=limit)
    if terms is not None:
        peer.extensions = [PerMessageDeflate(not terms.takeover, True, terms.bits, 15)]
    events: list[Event] = []
    opcode, parts, utf8 = 0, b"", Utf8()
    for piece in pieces:
        peer.receive_data(piece)
        for frame in peer.events_received():
            assert isinstance(frame, Frame)
            data = bytes(frame.data)
            if frame.opcode == PING:
                events.append(("ping", data))
            elif frame.opcode == PONG:
                events.append(("pong", data))
            elif frame.opcode == CLOSE:
                assert peer.close_rcvd is not None
                events.append(("close", peer.close_rcvd.code, peer.close_rcvd.reason.encode()))
            else:
                if frame.opcode != CONT:
                    opcode, parts, utf8 = int(frame.opcode), b"", Utf8()
                parts += data
                if opcode == TEXT and not (utf8.feed(data) and (utf8.complete or not frame.fin)):
                    return Outcome(events, 1007)
                if frame.fin:
                    events.append(("message", opcode, parts))
        if peer.parser_exc is not None:
            assert peer.close_sent is not None
            return Outcome(events, peer.close_sent.code)
    return Outcome(events, None)


def wsproto(pieces: Iterable[bytes], terms: Terms | None, limit: int) -> Outcome:
    extensions = []
    if terms is not None:
        extension = WsprotoDeflate()
        extension.finalize(
            f"permessage-deflate; client_max_window_bits={terms.bits}"
            + ("" if terms.takeover else "; client_no_context_takeover")
        )
        extensions.append(extension)
    peer = Connection(ConnectionType.SERVER, extensions)
    events: list[Event] = []
    parts = b""
    for piece in pieces:
        peer.receive_data(piece)
        for event in peer.events():
            if isinstance(event, wsproto_events.Ping):
                events.append(("ping", bytes(event.payload)))
            elif isinstance(event, wsproto_events.Pong):
                events.append(("pong", bytes(event.payload)))
            elif isinstance(event, wsproto_events.Message):
                is_text = isinstance(event, wsproto_events.TextMessage)
                parts += event.data.encode() if is_text else event.data
                if event.message_finished:
                    events.append(("message", 1 if is_text else 2, parts))
                    parts = b""
            elif isinstance(event, wsproto_events.CloseConnection):
                if peer.state.name == "OPEN":
                    # A close frame would have changed the state: it fails the connection, and says why.
                    return Outcome(events, int(event.code))
                events.append(("close", int(event.code), (event.reason or "").encode()))
                return Outcome(events, None)
            else:
                raise AssertionError(f"an event of wsproto that is not known here: {event!r}")
    return Outcome(events, None)


READERS = {"websockets": websockets, "wsproto": wsproto}
