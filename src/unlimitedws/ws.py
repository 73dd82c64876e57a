"""The frame level, as gobwas/ws gives it: for clients, proxies and tests that speak frames themselves.

A server does not need it. Here is no connection and no state but what the caller keeps: headers and frames are
values, read from bytes or from a file (a socket's ``makefile("rb")``), written to bytes or to a file. Payloads
are what is on the wire: masked where the header has a mask. See docs/frames.md.

===========================================================  ===================================================
`read_header`, `read_frame`; `..._async`                     from a buffer or a blocking file; an asyncio reader
`parse_header`, `parse_frame`                                from what there is so far, or None
`check_header(header, state)`                                the RFC's rules, for either end
`new_text_frame`, `new_binary_frame`, `new_ping_frame` ...   frames to send
`mask_frame`, `unmask_frame`, `mask`, `unmask`, `cipher`     a client masks whatever it sends
`compile_header`, `compile_frame`                            bytes that are ready to send
`write_header`, `write_frame`                                the same, to a file
`new_close_frame_body`, `parse_close_frame_data`,            what a close frame carries
`check_close_frame_data`
===========================================================  ===================================================

Thread: any, every function of this module.
"""

from __future__ import annotations

import io
import os
from enum import IntFlag
from typing import TYPE_CHECKING, NamedTuple, Protocol, cast

from _uws.wire import decode_header, encode_header, is_utf8, mask_in_place, masked

from .errors import ProtocolError, UnlimitedWSError
from .opcode import OpCode
from .statuscode import (
    STATUS_APPLICATION,
    STATUS_NOT_IN_USE,
    STATUS_PRIVATE,
    STATUS_PROTOCOL,
    StatusCode,
    is_valid_status,
)

if TYPE_CHECKING:
    from asyncio import StreamReader

    from typing_extensions import Buffer

__all__ = [
    "MAX_CONTROL_PAYLOAD_BYTES",
    "MAX_HEADER_BYTES",
    "MIN_HEADER_BYTES",
    "STATUS_APPLICATION",
    "STATUS_NOT_IN_USE",
    "STATUS_PRIVATE",
    "STATUS_PROTOCOL",
    "CloseData",
    "Frame",
    "Header",
    "OpCode",
    "ProtocolError",
    "Readable",
    "State",
    "StatusCode",
    "UnexpectedEOF",
    "Writable",
    "check_close_frame_data",
    "check_header",
    "cipher",
    "compile_frame",
    "compile_header",
    "is_valid_status",
    "mask",
    "mask_frame",
    "new_binary_frame",
    "new_close_frame",
    "new_close_frame_body",
    "new_frame",
    "new_mask",
    "new_ping_frame",
    "new_pong_frame",
    "new_text_frame",
    "parse_close_frame_data",
    "parse_frame",
    "parse_header",
    "read_frame",
    "read_frame_async",
    "read_header",
    "read_header_async",
    "unmask",
    "unmask_frame",
    "write_frame",
    "write_header",
]

MIN_HEADER_BYTES = 2
MAX_HEADER_BYTES = 14
MAX_CONTROL_PAYLOAD_BYTES = 125

# As Options.max_message_bytes: whoever reads a frame takes memory for it before it is there.
_MAX_PAYLOAD_BYTES = 1 << 20

_KNOWN = frozenset(OpCode)
# An opcode that the RFC has not given away stays a number, for check_header() to refuse.
_OPCODES: list[int] = [OpCode(code) if code in _KNOWN else code for code in range(16)]
_NAMED = frozenset(StatusCode)


class UnexpectedEOF(UnlimitedWSError, EOFError):
    """The input ended within a header or a payload. Where it ends between two frames, it is a plain `EOFError`."""


class Readable(Protocol):
    """A blocking binary file. `read` may give less than it was asked for, nothing only at the end."""

    def read(self, size: int, /) -> bytes | None: ...


class Writable(Protocol):
    """A blocking binary file, or an `asyncio.StreamWriter`. `write` may take less, and then says how much."""

    def write(self, data: bytes, /) -> object: ...


class State(IntFlag):
    """What decides which headers are in order."""

    NONE = 0
    SERVER_SIDE = 1
    """We are the server: what we read has to be masked."""
    CLIENT_SIDE = 2
    """We are the client: what we read must not be masked."""
    EXTENDED = 4
    """An extension was negotiated that gives the reserved bits a meaning. Which ones is its business."""
    FRAGMENTED = 8
    """A message has begun and has not ended."""


class Header(NamedTuple):
    """A frame's header (RFC 6455, section 5.2). A value: nothing is checked until it is encoded or checked."""

    opcode: int
    """An `OpCode`; a plain int where the RFC has none of that number."""
    length: int
    """Bytes of the payload."""
    fin: bool = True
    """Whether this is the last frame of its message."""
    rsv: int = 0
    """The reserved bits as a number: RSV1 is 4, RSV2 is 2, RSV3 is 1."""
    mask: bytes | None = None
    """The four bytes of the masking key; None if the payload is not masked."""

    @property
    def masked(self) -> bool:
        """Whether there is a masking key."""
        return self.mask is not None

    @property
    def rsv1(self) -> bool:
        """The first reserved bit: a compressed message, in RFC 7692."""
        return self.rsv & 4 != 0

    @property
    def rsv2(self) -> bool:
        """The second reserved bit."""
        return self.rsv & 2 != 0

    @property
    def rsv3(self) -> bool:
        """The third reserved bit."""
        return self.rsv & 1 != 0

    @property
    def size(self) -> int:
        """Bytes of the header itself on the wire: 2 to 14."""
        length = 2 if self.length <= 125 else 4 if self.length <= 0xFFFF else 10
        return length + (0 if self.mask is None else 4)


class Frame(NamedTuple):
    """A frame: its header, and its payload as it is on the wire."""

    header: Header
    payload: bytes


class CloseData(NamedTuple):
    """What a close frame says."""

    code: int
    """Close code; 1005 where the frame has none."""
    reason: str


# ---- reading


def _header(fields: tuple[int, int, bool, int, bytes | None]) -> Header:
    opcode, length, fin, rsv, key = fields
    return Header(_OPCODES[opcode], length, fin, rsv, key)


def _rest_of_header(first: bytes) -> int:
    """How many bytes follow the first two."""
    length = first[1] & 0x7F
    return (0 if length < 126 else 2 if length == 126 else 8) + (4 if first[1] & 0x80 else 0)


def _check_length(header: Header, max_payload_bytes: int) -> None:
    if header.length > max_payload_bytes:
        raise ProtocolError(
            StatusCode.MESSAGE_TOO_BIG, f"a payload of {header.length} bytes, above {max_payload_bytes}"
        )


def parse_header(data: Buffer, offset: int = 0) -> Header | None:
    """Decode the header that begins at an offset, if it is there.

    Args:
        data: What has been received.
        offset: Where the header begins.

    Returns:
        The header, which took `Header.size` bytes; None if more are needed.

    Raises:
        ProtocolError: The length is not in its shortest form, or has its top bit set.
        ValueError: offset lies outside of data.
    """
    fields = decode_header(data, offset)
    return None if fields is None else _header(fields)


def parse_frame(
    data: Buffer, offset: int = 0, *, max_payload_bytes: int = _MAX_PAYLOAD_BYTES
) -> tuple[Frame, int] | None:
    """Decode the frame that begins at an offset, if it is there.

    Args:
        data: What has been received.
        offset: Where the frame begins.
        max_payload_bytes: A longer payload is refused as soon as its header is there; 1 MiB.

    Returns:
        The frame, and the offset behind it; None if more bytes are needed.

    Raises:
        ProtocolError: As `parse_header`, or with 1009 for a payload that is too long.
        ValueError: offset lies outside of data.
    """
    header = parse_header(data, offset)
    if header is None:
        return None
    _check_length(header, max_payload_bytes)
    begin = offset + header.size
    view = memoryview(data).cast("B")
    if view.nbytes - begin < header.length:
        return None
    end = begin + header.length
    return Frame(header, view[begin:end].tobytes()), end


def _read_exactly(file: Readable, size: int, begun: bool) -> bytes:
    """Read size bytes. begun: some of the frame have been read, so that here is no place for an end."""
    pieces: list[bytes] = []
    missing = size
    while missing:
        piece = file.read(missing)
        if piece is None:
            # The bytes that were read would be lost, and with them the place in the stream.
            raise BlockingIOError("frames are read from a blocking file")
        if not piece:
            if begun or pieces:
                raise UnexpectedEOF(f"the input ended {missing} bytes too early")
            raise EOFError("the input ended, between two frames")
        missing -= len(piece)
        pieces.append(piece)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def _file(source: Buffer | Readable) -> Readable:
    return cast("Readable", source) if hasattr(source, "read") else io.BytesIO(source)


def read_header(source: Buffer | Readable) -> Header:
    """Read one header, and nothing behind it.

    Args:
        source: A buffer that begins with the header; or a blocking binary file, such as
            ``sock.makefile("rb")``.

    Raises:
        EOFError: The input has ended. `UnexpectedEOF`: it ended within the header.
        ProtocolError: The length is not in its shortest form, or has its top bit set.
        OSError: What reading the file raises; `TimeoutError` among them, after which the place in the stream
            is lost.
    """
    file = _file(source)
    first = _read_exactly(file, MIN_HEADER_BYTES, False)
    fields = decode_header(first + _read_exactly(file, _rest_of_header(first), True))
    assert fields is not None
    return _header(fields)


def read_frame(source: Buffer | Readable, *, max_payload_bytes: int = _MAX_PAYLOAD_BYTES) -> Frame:
    """Read one frame. Its payload stays masked: see `unmask_frame`.

    Args:
        source: As for `read_header`.
        max_payload_bytes: A longer payload is refused before it is read; 1 MiB.

    Raises:
        ProtocolError: As `read_header`, or with 1009 for a payload that is too long.
        EOFError, UnexpectedEOF, OSError: As `read_header`.
    """
    file = _file(source)
    header = read_header(file)
    _check_length(header, max_payload_bytes)
    return Frame(header, _read_exactly(file, header.length, True))


async def _read_exactly_async(reader: StreamReader, size: int, begun: bool) -> bytes:
    # asyncio.IncompleteReadError is imported with asyncio, and is an EOFError with what was read in it.
    try:
        return await reader.readexactly(size)
    except EOFError as error:
        partial: bytes = getattr(error, "partial", b"")
        if begun or partial:
            raise UnexpectedEOF(f"the input ended {size - len(partial)} bytes too early") from error
        raise EOFError("the input ended, between two frames") from error


async def read_header_async(reader: StreamReader) -> Header:
    """Read one header from an asyncio reader; see `read_header`."""
    first = await _read_exactly_async(reader, MIN_HEADER_BYTES, False)
    fields = decode_header(first + await _read_exactly_async(reader, _rest_of_header(first), True))
    assert fields is not None
    return _header(fields)


async def read_frame_async(reader: StreamReader, *, max_payload_bytes: int = _MAX_PAYLOAD_BYTES) -> Frame:
    """Read one frame from an asyncio reader; see `read_frame`."""
    header = await read_header_async(reader)
    _check_length(header, max_payload_bytes)
    return Frame(header, await _read_exactly_async(reader, header.length, True))


# ---- the rules


def check_header(header: Header, state: State) -> None:
    """Apply the RFC's rules to a header that was received.

    Args:
        header: The header.
        state: Which end we are, whether an extension was negotiated, whether a message has begun. With
            neither SERVER_SIDE nor CLIENT_SIDE masks are not looked at.

    Raises:
        ProtocolError: With 1002 and the rule that is broken.
    """
    rule = _broken_rule(header, state)
    if rule:
        raise ProtocolError(StatusCode.PROTOCOL_ERROR, rule)


def _broken_rule(header: Header, state: State) -> str:
    opcode = header.opcode
    control = opcode >= OpCode.CLOSE
    # 5.2: "If an unknown opcode is received, the receiving endpoint MUST _Fail the WebSocket Connection_."
    if opcode not in _KNOWN:
        return f"opcode {opcode} is reserved"
    # 5.5: "All control frames MUST have a payload length of 125 bytes or less and MUST NOT be fragmented."
    if control and header.length > MAX_CONTROL_PAYLOAD_BYTES:
        return f"a control frame of {header.length} bytes, above {MAX_CONTROL_PAYLOAD_BYTES}"
    if control and not header.fin:
        return "a control frame that is fragmented"
    # 5.2: "MUST be 0 unless an extension is negotiated that defines meanings for non-zero values."
    if header.rsv and not state & State.EXTENDED:
        return "a reserved bit without an extension"
    # 5.1: "The server MUST close the connection upon receiving a frame that is not masked."
    if state & State.SERVER_SIDE and header.mask is None:
        return "a frame from a client that is not masked"
    # 5.1: "A client MUST close a connection if it detects a masked frame."
    if state & State.CLIENT_SIDE and header.mask is not None:
        return "a frame from a server that is masked"
    # 5.4: "The fragments of one message MUST NOT be interleaved between the fragments of another message."
    if state & State.FRAGMENTED and not control and opcode != OpCode.CONTINUATION:
        return "a message within another one"
    # 5.4: a continuation frame continues a message that has begun.
    if not state & State.FRAGMENTED and opcode == OpCode.CONTINUATION:
        return "a continuation of nothing"
    return ""


# ---- masking


def new_mask() -> bytes:
    """Return a masking key that nobody can foresee (RFC 6455, section 5.3)."""
    return os.urandom(4)


def mask(data: Buffer, key: Buffer, offset: int = 0) -> bytes:
    """Return data masked with key (RFC 6455, section 5.3).

    Args:
        data: A payload or a part of it.
        key: Four bytes.
        offset: Where in the payload data begins.

    Raises:
        ValueError: key has not four bytes.
    """
    return masked(data, key, offset)


unmask = mask
"""Masking twice changes nothing, so `unmask` is `mask`; the name says which way it goes."""


def cipher(data: Buffer, key: Buffer, offset: int = 0) -> None:
    """Mask or unmask data where it is: a `bytearray`, or a writable `memoryview`.

    Raises:
        BufferError: data cannot be written to, as `bytes` cannot, or is not contiguous.
        ValueError: key has not four bytes.
    """
    mask_in_place(data, key, offset)


def mask_frame(frame: Frame, key: bytes | None = None) -> Frame:
    """Return the frame as a client sends it.

    Args:
        frame: A frame that is not masked.
        key: Four bytes; None takes a new one, as RFC 6455, section 5.3, wants it for every frame.

    Raises:
        ValueError: The frame is masked, or key has not four bytes.
    """
    if frame.header.mask is not None:
        raise ValueError("the frame is masked already")
    key = new_mask() if key is None else key
    return Frame(frame.header._replace(mask=key), masked(frame.payload, key))


def unmask_frame(frame: Frame) -> Frame:
    """Return the frame without its mask; one that has none is returned as it is."""
    key = frame.header.mask
    return frame if key is None else Frame(frame.header._replace(mask=None), masked(frame.payload, key))


# ---- frames to send


def _bytes(payload: str | Buffer) -> bytes:
    if isinstance(payload, bytes):
        return payload
    return payload.encode() if isinstance(payload, str) else memoryview(payload).tobytes()


def new_frame(opcode: int, payload: str | Buffer = b"", *, fin: bool = True, rsv: int = 0) -> Frame:
    """Make a frame, not masked. No rule is applied: that is how a test sends what breaks them.

    Args:
        opcode: An `OpCode`, or any number of four bits.
        payload: Text is encoded as UTF-8.
        fin: Whether the message ends with it.
        rsv: The reserved bits, as in `Header`.
    """
    data = _bytes(payload)
    return Frame(Header(opcode, len(data), fin, rsv), data)


def new_text_frame(payload: str | Buffer) -> Frame:
    """Make a whole text message. Bytes have to be UTF-8; nobody looks here."""
    return new_frame(OpCode.TEXT, payload)


def new_binary_frame(payload: Buffer) -> Frame:
    """Make a whole binary message."""
    return new_frame(OpCode.BINARY, payload)


def _control_frame(opcode: OpCode, payload: str | Buffer) -> Frame:
    frame = new_frame(opcode, payload)
    if frame.header.length > MAX_CONTROL_PAYLOAD_BYTES:
        raise ValueError(
            f"a control frame carries at most {MAX_CONTROL_PAYLOAD_BYTES} bytes, not {frame.header.length}"
        )
    return frame


def new_ping_frame(payload: str | Buffer = b"") -> Frame:
    """Make a ping. Raises `ValueError` above 125 bytes."""
    return _control_frame(OpCode.PING, payload)


def new_pong_frame(payload: str | Buffer = b"") -> Frame:
    """Make a pong, with the payload of the ping that it answers. Raises `ValueError` above 125 bytes."""
    return _control_frame(OpCode.PONG, payload)


def new_close_frame(body: Buffer = b"") -> Frame:
    """Make a close frame; see `new_close_frame_body`. Raises `ValueError` above 125 bytes."""
    return _control_frame(OpCode.CLOSE, body)


def compile_header(header: Header) -> bytes:
    """Return the header as it is on the wire.

    Raises:
        ValueError: A value does not fit its field. No other rule is applied.
    """
    return encode_header(header.opcode, header.length, header.fin, header.rsv, header.mask)


def compile_frame(frame: Frame) -> bytes:
    """Return the frame as it is on the wire: made once, it may be sent to any number of peers.

    Raises:
        ValueError: The payload is not as long as the header says, or a value does not fit its field.
    """
    header, payload = frame
    if header.length != len(payload):
        raise ValueError(f"the header says {header.length} bytes, the payload has {len(payload)}")
    return compile_header(header) + payload


def _write(file: Writable, data: bytes) -> None:
    while True:
        taken = file.write(data)
        if taken is None and isinstance(file, io.RawIOBase):
            raise BlockingIOError("frames are written to a blocking file")
        # Only an unbuffered file takes less; an asyncio writer takes all and says nothing.
        if not isinstance(taken, int) or taken >= len(data):
            return
        data = data[taken:]


def write_header(file: Writable, header: Header) -> None:
    """Write a header; its payload is the caller's to write.

    Raises:
        ValueError: As `compile_header`.
        OSError: What writing raises. How much has been sent is not known then.
    """
    _write(file, compile_header(header))


def write_frame(file: Writable, frame: Frame) -> None:
    """Write a frame, in one call. A buffered file has to be flushed.

    Raises:
        ValueError: As `compile_frame`.
        OSError: What writing raises. How much has been sent is not known then.
    """
    _write(file, compile_frame(frame))


# ---- close frames


def new_close_frame_body(code: int, reason: str = "") -> bytes:
    """Return the body of a close frame (RFC 6455, section 5.5.1).

    Args:
        code: One that may be sent: see `is_valid_status`. A frame without one has the body ``b""``.
        reason: At most 123 bytes as UTF-8.

    Raises:
        ValueError: code may not be sent, or reason is too long.
    """
    if not is_valid_status(code):
        raise ValueError(f"close code {code} may not be sent: 1000 to 1003, 1007 to 1014, 3000 to 4999 may")
    body = code.to_bytes(2, "big") + reason.encode()
    if len(body) > MAX_CONTROL_PAYLOAD_BYTES:
        raise ValueError(f"a close reason has at most 123 bytes, not {len(body) - 2}")
    return body


def parse_close_frame_data(payload: Buffer) -> CloseData:
    """Read the body of a close frame, not masked. Whether its code is in order is `check_close_frame_data`'s.

    Returns:
        The code, a `StatusCode` where it has a name, and the reason; 1005 and ``""`` if there is neither.

    Raises:
        ProtocolError: With 1002 for a single byte, with 1007 for a reason that is not UTF-8.
    """
    body = _bytes(payload)
    if not body:
        return CloseData(StatusCode.NO_STATUS_RCVD, "")
    if len(body) == 1:
        raise ProtocolError(StatusCode.PROTOCOL_ERROR, "half a close code")
    code = int.from_bytes(body[:2], "big")
    try:
        reason = body[2:].decode()
    except UnicodeDecodeError as error:
        raise ProtocolError(
            StatusCode.INVALID_FRAME_PAYLOAD_DATA, "a close reason that is not UTF-8"
        ) from error
    return CloseData(StatusCode(code) if code in _NAMED else code, reason)


def check_close_frame_data(code: int, reason: str | Buffer = "") -> None:
    """Apply the RFC's rules to a close code and a reason that were received (RFC 6455, section 7.4).

    Raises:
        ProtocolError: With 1002 for a code that may not be sent or a reason of more than 123 bytes, with 1007
            for a reason that is not UTF-8.
    """
    if not is_valid_status(code):
        raise ProtocolError(StatusCode.PROTOCOL_ERROR, f"close code {code} may not be sent")
    data = _bytes(reason)
    if len(data) > MAX_CONTROL_PAYLOAD_BYTES - 2:
        raise ProtocolError(StatusCode.PROTOCOL_ERROR, "a close reason of more than 123 bytes")
    if not is_utf8(data):
        raise ProtocolError(StatusCode.INVALID_FRAME_PAYLOAD_DATA, "a close reason that is not UTF-8")
