"""The frame level: against the frame codecs of websockets and wsproto, and enumerated where that is possible."""

from __future__ import annotations

import asyncio
import io
import itertools
import random
import re
import socket
import struct
import threading
from pathlib import Path
from typing import Any

import pytest
import websockets.frames
import wsproto.frame_protocol
from fixtures import EchoServer
from uws_shims import frame_shim
from websockets.exceptions import ProtocolError as PeerError

import unlimitedws
from unlimitedws import ws
from unlimitedws.ws import Frame, Header, OpCode, ProtocolError, State, StatusCode

KEY = b"\x9a\x01\xff\x40"
# Both sides of every border between two forms of the length.
BORDERS = [0, 1, 2, 124, 125, 126, 127, 128, 129, 255, 256, 257, 65534, 65535, 65536, 65537]
LENGTHS = [*range(131), *BORDERS[9:]]
DATA_OPCODES = (OpCode.CONTINUATION, OpCode.TEXT, OpCode.BINARY)


def payload(length: int) -> bytes:
    return random.Random(length).randbytes(length)


class Dribble(io.RawIOBase):
    """A raw file that gives and takes one to three bytes at a time."""

    def __init__(self, data: bytes = b"") -> None:
        self.data = data
        self.taken = bytearray()
        self.at = 0

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return True

    def readinto(self, room: Any) -> int:
        n = min(len(room), len(self.data) - self.at, 1 + self.at % 3)
        room[:n] = self.data[self.at : self.at + n]
        self.at += n
        return n

    def write(self, data: Any) -> int:
        n = min(len(data), 1 + len(self.taken) % 3)
        self.taken += data[:n]
        return n


def parse_by_websockets(data: bytes, mask: bool) -> websockets.frames.Frame:
    file = io.BytesIO(data)

    def read_exact(n: int) -> Any:
        got = file.read(n)
        if len(got) != n:
            raise EOFError
        return got
        yield

    steps = websockets.frames.Frame.parse(read_exact, mask=mask)
    try:
        next(steps)
    except StopIteration as stop:
        return stop.value  # type: ignore[no-any-return]
    raise AssertionError("it waits for more")


# ---- against peers


@pytest.mark.parametrize("masked", [False, True])
def test_what_we_compile_websockets_reads(masked: bool) -> None:
    for length in LENGTHS:
        for opcode in DATA_OPCODES if length > 125 else [op for op in OpCode if op != OpCode.CLOSE]:
            frame = ws.new_frame(opcode, payload(length))
            data = ws.compile_frame(ws.mask_frame(frame) if masked else frame)
            theirs = parse_by_websockets(data, masked)
            assert (theirs.opcode, theirs.fin, bytes(theirs.data)) == (opcode, True, payload(length))


@pytest.mark.parametrize("masked", [False, True])
def test_what_websockets_serializes_we_read(masked: bool) -> None:
    for length in LENGTHS:
        theirs = websockets.frames.Frame(websockets.frames.Opcode.BINARY, payload(length), fin=False)
        data = theirs.serialize(mask=masked)
        frame = ws.read_frame(data)
        assert frame.header[:4] == (OpCode.BINARY, length, False, 0)
        assert frame.header.masked is masked
        assert ws.unmask_frame(frame).payload == payload(length)
        assert frame.header.size + length == len(data)
        assert ws.compile_frame(frame) == data


def test_what_we_compile_wsproto_reads() -> None:
    """As a server reads it, masked, and as a client does; fed as one, and in two pieces."""
    for client in (False, True):
        for length in BORDERS:
            frame = ws.new_binary_frame(payload(length))
            data = ws.compile_frame(frame if client else ws.mask_frame(frame, KEY))
            for cut in (0, 1, len(data) // 2):
                protocol = wsproto.frame_protocol.FrameProtocol(client=client, extensions=[])
                protocol.receive_bytes(data[:cut])
                got = [bytes(one.payload) for one in protocol.received_frames()]
                protocol.receive_bytes(data[cut:])
                got += [bytes(one.payload) for one in protocol.received_frames()]
                assert b"".join(got) == payload(length)


def test_what_wsproto_serializes_we_read() -> None:
    for client in (False, True):
        protocol = wsproto.frame_protocol.FrameProtocol(client=client, extensions=[])
        for length in BORDERS:
            frame = ws.read_frame(protocol.send_data(payload(length), fin=True))
            assert (frame.header.opcode, frame.header.masked) == (OpCode.BINARY, client)
            assert ws.unmask_frame(frame).payload == payload(length)


def test_close_bodies_are_those_of_websockets() -> None:
    for code in range(0x10000):
        body = struct.pack("!H", code) + "bye …".encode()
        try:
            theirs = websockets.frames.Close.parse(body)
        except PeerError:
            with pytest.raises(ProtocolError) as caught:
                ws.check_close_frame_data(*ws.parse_close_frame_data(body))
            assert caught.value.code == 1002
            with pytest.raises(ValueError, match="may not be sent"):
                ws.new_close_frame_body(code, "bye …")
        else:
            close = ws.parse_close_frame_data(body)
            ws.check_close_frame_data(*close)
            assert close == (theirs.code, theirs.reason)
            assert ws.new_close_frame_body(code, "bye …") == body == theirs.serialize()


def test_the_named_codes_are_those_of_websockets_and_the_three_that_iana_has_beyond_them() -> None:
    assert set(StatusCode) == {*map(int, websockets.frames.CloseCode), 1004, 3000, 3003, 3008}


# ---- headers


def every_header(lengths: list[int]) -> Any:
    for length, opcode, rsv, fin, key in itertools.product(
        lengths, range(16), range(8), (False, True), (None, KEY)
    ):
        yield Header(opcode, length, fin, rsv, key)


def test_every_header_is_read_as_it_was_written() -> None:
    for header in every_header([0, 125, 126, 65535, 65536, 2**63 - 1]):
        data = ws.compile_header(header)
        assert len(data) == header.size
        assert ws.read_header(data) == ws.parse_header(data) == ws.parse_header(b"-" + data + b"-", 1) == header
        file = io.BytesIO(data + b"payload")
        assert ws.read_header(file) == header
        assert file.read() == b"payload"
        file = io.BytesIO()
        ws.write_header(file, header)
        assert file.getvalue() == data


def test_reserved_bits_have_the_names_of_the_rfc() -> None:
    for rsv in range(8):
        header = Header(OpCode.TEXT, 0, rsv=rsv)
        assert (header.rsv1, header.rsv2, header.rsv3) == (rsv >= 4, rsv % 4 >= 2, rsv % 2 == 1)
        assert ws.compile_header(header)[0] & 0x70 == header.rsv1 << 6 | header.rsv2 << 5 | header.rsv3 << 4


def test_an_opcode_is_a_member_where_there_is_one_and_else_a_number() -> None:
    for opcode in range(16):
        header = ws.read_header(bytes([0x80 | opcode, 0]))
        assert header.opcode == opcode
        assert isinstance(header.opcode, OpCode) is (opcode in (0, 1, 2, 8, 9, 10))


@pytest.mark.parametrize(
    "data", [b"\x82\x7e\x00\x7d", b"\x82\x7f" + struct.pack("!Q", 65535), b"\x82\x7f" + struct.pack("!Q", 1 << 63)]
)
def test_lengths_that_no_frame_may_have_are_1002_however_they_are_read(data: bytes) -> None:
    for read in (ws.read_header, ws.read_frame, ws.parse_header, ws.parse_frame):
        with pytest.raises(ProtocolError) as caught:
            read(data)
        assert caught.value.code == StatusCode.PROTOCOL_ERROR
        assert isinstance(caught.value, unlimitedws.UnlimitedWSError)
        assert "1002" in str(caught.value)


def test_headers_and_frames_that_cannot_be_are_not_compiled() -> None:
    for header in (Header(16, 0), Header(1, -1), Header(1, 1 << 63), Header(1, 0, rsv=8), Header(1, 0, mask=b"123")):
        with pytest.raises(ValueError, match=r"opcode|length|reserved|4 bytes"):
            ws.compile_header(header)
    with pytest.raises(ValueError, match="5 bytes, the payload has 4"):
        ws.compile_frame(Frame(Header(OpCode.TEXT, 5), b"four"))


# ---- the rules


def test_the_rules_of_a_server_are_the_engines() -> None:
    """Every first byte, every second one, in a message and outside, with an extension and without."""
    for fragmented, extended in itertools.product((False, True), repeat=2):
        state = State.SERVER_SIDE
        state |= State.FRAGMENTED if fragmented else State.NONE
        state |= State.EXTENDED if extended else State.NONE
        for b0 in range(256):
            control = b0 & 8
            # What an extension may do with reserved bits the engine knows and gobwas leaves to the extension.
            if b0 & 0x70 and extended and (control or not b0 & 15):
                continue
            verdicts = frame_shim.check_all(b0, int(fragmented), 7 if extended else 0)
            for b1 in range(256):
                length = {126: 126, 127: 65536}.get(b1 & 0x7F, b1 & 0x7F)
                header = Header(b0 & 15, length, b0 >= 0x80, b0 >> 4 & 7, KEY if b1 & 0x80 else None)
                try:
                    ws.check_header(header, state)
                except ProtocolError as error:
                    assert error.code == 1002
                    assert verdicts[b1] == 0, header
                else:
                    assert verdicts[b1] == 1, header


def test_the_rules_of_a_client_differ_in_the_mask_alone() -> None:
    def verdict(header: Header, state: State) -> bool:
        try:
            ws.check_header(header, state)
        except ProtocolError:
            return False
        return True

    passed = 0
    for header in every_header([0, 125, 126, 65536]):
        other = header._replace(mask=None if header.masked else KEY)
        for extra in (State.NONE, State.EXTENDED, State.FRAGMENTED, State.EXTENDED | State.FRAGMENTED):
            as_client = verdict(header, State.CLIENT_SIDE | extra)
            assert as_client == verdict(other, State.SERVER_SIDE | extra)
            if as_client:
                passed += 1
                # Who is neither does not look at masks.
                assert verdict(header, extra)
                assert verdict(other, extra)
    assert passed > 0


@pytest.mark.parametrize(
    ("header", "state", "rule"),
    [
        (Header(3, 0), State.NONE, "opcode 3 is reserved"),
        (Header(OpCode.PING, 126), State.NONE, "126 bytes, above 125"),
        (Header(OpCode.CLOSE, 0, fin=False), State.NONE, "fragmented"),
        (Header(OpCode.TEXT, 0, rsv=4), State.NONE, "without an extension"),
        (Header(OpCode.TEXT, 0), State.SERVER_SIDE, "not masked"),
        (Header(OpCode.TEXT, 0, mask=KEY), State.CLIENT_SIDE, "is masked"),
        (Header(OpCode.TEXT, 0), State.FRAGMENTED, "within another one"),
        (Header(OpCode.CONTINUATION, 0), State.NONE, "continuation of nothing"),
    ],
)
def test_the_rule_that_is_broken_is_named(header: Header, state: State, rule: str) -> None:
    with pytest.raises(ProtocolError, match=rule):
        ws.check_header(header, state)


# ---- reading and writing


@pytest.mark.parametrize("length", BORDERS)
def test_a_frame_is_read_from_files_that_give_little_at_a_time(length: int) -> None:
    frame = ws.mask_frame(ws.new_binary_frame(payload(length)))
    file = Dribble(ws.compile_frame(frame) * 2)
    assert ws.read_frame(file) == frame
    assert ws.read_frame(file) == frame
    with pytest.raises(EOFError) as caught:
        ws.read_frame(file)
    assert not isinstance(caught.value, ws.UnexpectedEOF)


@pytest.mark.parametrize("length", [0, 5, 126, 65536])
def test_an_input_that_ends_within_a_frame_says_so(length: int) -> None:
    data = ws.compile_frame(ws.mask_frame(ws.new_binary_frame(payload(length))))
    for cut in {*range(min(len(data), 20)), len(data) - 1}:
        kind = EOFError if cut == 0 else ws.UnexpectedEOF
        with pytest.raises(kind) as caught:
            ws.read_frame(io.BytesIO(data[:cut]))
        assert type(caught.value) is kind
        with pytest.raises(EOFError):
            ws.read_frame(data[:cut])
        assert ws.parse_frame(data[:cut]) is None


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_a_frame_is_read_from_any_buffer(kind: Any) -> None:
    frame = ws.mask_frame(ws.new_text_frame("grüß"))
    data = ws.compile_frame(frame)
    assert ws.read_frame(kind(data)) == frame
    assert ws.read_header(kind(data)) == frame.header
    assert ws.parse_frame(kind(b"--" + data + b"--"), 2) == (frame, len(data) + 2)


def test_frames_in_a_growing_buffer_are_parsed_one_after_the_other() -> None:
    frames = [ws.mask_frame(ws.new_frame(op, payload(n))) for op, n in ((1, 0), (9, 125), (2, 126), (0, 70000))]
    buffer, found = bytearray(), []
    stream = b"".join(map(ws.compile_frame, frames))
    for i in range(0, len(stream), 97):
        # It grows while nobody holds a view of it.
        buffer += stream[i : i + 97]
        while (parsed := ws.parse_frame(buffer)) is not None:
            found.append(parsed[0])
            del buffer[: parsed[1]]
    assert found == frames
    assert not buffer


def test_a_payload_above_the_limit_is_refused_before_it_is_read() -> None:
    data = ws.compile_frame(ws.new_binary_frame(bytes(1001)))
    assert len(ws.read_frame(data, max_payload_bytes=1001).payload) == 1001
    file = io.BytesIO(data)
    with pytest.raises(ProtocolError) as caught:
        ws.read_frame(file, max_payload_bytes=1000)
    assert caught.value.code == StatusCode.MESSAGE_TOO_BIG
    assert file.tell() == 4
    with pytest.raises(ProtocolError, match="above 1000"):
        ws.parse_frame(data[:4], max_payload_bytes=1000)
    # Nobody takes memory because of a number that somebody sent.
    with pytest.raises(ProtocolError, match="above 1048576"):
        ws.read_frame(ws.compile_header(Header(OpCode.BINARY, 2**63 - 1)))


def test_a_file_that_does_not_block_is_refused() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        with ours.makefile("rb", buffering=0) as file, pytest.raises(BlockingIOError):
            ws.read_frame(file)
        with ours.makefile("wb", buffering=0) as file, pytest.raises(BlockingIOError):
            for _ in range(100):
                ws.write_frame(file, ws.new_binary_frame(bytes(1 << 20)))


def test_a_frame_is_written_whole_to_files_that_take_little_at_a_time() -> None:
    for length in BORDERS[:-4]:
        frame = ws.mask_frame(ws.new_binary_frame(payload(length)))
        file, buffered = Dribble(), io.BytesIO()
        ws.write_frame(file, frame)
        ws.write_frame(buffered, frame)
        assert bytes(file.taken) == buffered.getvalue() == ws.compile_frame(frame)


def test_frames_pass_through_the_files_of_a_socket() -> None:
    ours, theirs = socket.socketpair()
    frames = [ws.mask_frame(ws.new_binary_frame(payload(n))) for n in (0, 126, 300_000)]
    with ours, theirs, ours.makefile("wb") as out, theirs.makefile("rb") as into:

        def send() -> None:
            for frame in frames:
                ws.write_frame(out, frame)
            out.flush()

        thread = threading.Thread(target=send)
        thread.start()
        got = [ws.read_frame(into) for _ in frames]
        thread.join(10)
    assert got == frames


def test_frames_are_read_from_an_asyncio_reader_and_written_to_its_writer() -> None:
    async def talk() -> None:
        ours, theirs = socket.socketpair()
        reader, _ = keep = await asyncio.open_connection(sock=ours)
        _, writer = other = await asyncio.open_connection(sock=theirs)
        frame = ws.mask_frame(ws.new_binary_frame(payload(70000)))
        ws.write_frame(writer, frame)
        ws.write_header(writer, Header(OpCode.PING, 0))
        writer.write(ws.compile_frame(frame)[:-1])
        writer.close()
        assert await ws.read_frame_async(reader) == frame
        assert await ws.read_header_async(reader) == Header(OpCode.PING, 0)
        with pytest.raises(ws.UnexpectedEOF):
            await ws.read_frame_async(reader)
        with pytest.raises(EOFError) as caught:
            await ws.read_frame_async(reader)
        assert type(caught.value) is EOFError
        for _, one in (keep, other):
            one.close()
            await one.wait_closed()

    asyncio.run(talk())


def test_a_limit_and_a_cut_header_hold_for_asyncio_readers_too() -> None:
    async def talk() -> None:
        reader = asyncio.StreamReader()
        reader.feed_data(ws.compile_header(Header(OpCode.BINARY, 11)) + b"\x81")
        reader.feed_eof()
        with pytest.raises(ProtocolError) as caught:
            await ws.read_frame_async(reader, max_payload_bytes=10)
        assert caught.value.code == 1009
        with pytest.raises(ws.UnexpectedEOF):
            await ws.read_header_async(reader)

    asyncio.run(talk())


# ---- masks


def test_a_mask_is_that_of_a_naive_loop() -> None:
    for length in (*range(66), 1000):
        for offset in range(5):
            data = payload(length)
            want = bytes(byte ^ KEY[(offset + i) % 4] for i, byte in enumerate(data))
            assert ws.mask(data, KEY, offset) == want
            assert ws.unmask(want, KEY, offset) == data
            room = bytearray(data)
            ws.cipher(room, KEY, offset)
            assert room == want
            ws.cipher(memoryview(room), KEY, offset)
            assert room == data


def test_a_frame_is_masked_and_unmasked_as_a_value() -> None:
    frame = ws.new_text_frame("text")
    masked = ws.mask_frame(frame, KEY)
    assert masked.header == Header(OpCode.TEXT, 4, mask=KEY)
    assert masked.payload == ws.mask(b"text", KEY)
    assert ws.unmask_frame(masked) == frame == ws.unmask_frame(frame)
    with pytest.raises(ValueError, match="masked already"):
        ws.mask_frame(masked)
    with pytest.raises(ValueError, match="4 bytes"):
        ws.mask_frame(frame, b"12345")


def test_every_frame_gets_a_key_of_its_own() -> None:
    keys = {ws.mask_frame(ws.new_ping_frame()).header.mask for _ in range(64)}
    assert len(keys) > 60
    assert all(len(key) == 4 for key in keys if key is not None)
    assert None not in keys


# ---- frames to send, close bodies


def test_frames_are_made_of_text_and_of_any_buffer() -> None:
    assert ws.new_text_frame("ü") == Frame(Header(OpCode.TEXT, 2), b"\xc3\xbc")
    assert ws.new_text_frame(b"\xc3") == Frame(Header(OpCode.TEXT, 1), b"\xc3")
    for kind in (bytes, bytearray, memoryview):
        frame = ws.new_binary_frame(kind(b"xyz"))
        assert frame == Frame(Header(OpCode.BINARY, 3), b"xyz")
        assert type(frame.payload) is bytes
    assert ws.new_frame(5, b"x", fin=False, rsv=3) == Frame(Header(5, 1, False, 3), b"x")
    assert ws.new_ping_frame("hi").header.opcode == OpCode.PING
    assert ws.new_pong_frame(b"hi") == Frame(Header(OpCode.PONG, 2), b"hi")
    assert ws.new_close_frame() == Frame(Header(OpCode.CLOSE, 0), b"")


@pytest.mark.parametrize("make", [ws.new_ping_frame, ws.new_pong_frame, ws.new_close_frame])
def test_control_frames_carry_at_most_125_bytes(make: Any) -> None:
    assert make(bytes(125)).header.length == 125
    with pytest.raises(ValueError, match="at most 125 bytes, not 126"):
        make(bytes(126))


def test_a_close_reason_has_at_most_123_bytes() -> None:
    assert len(ws.new_close_frame_body(1000, "ü" * 61 + "x")) == 125
    with pytest.raises(ValueError, match="at most 123 bytes, not 124"):
        ws.new_close_frame_body(1000, "ü" * 62)
    ws.check_close_frame_data(1000, b"x" * 123)
    with pytest.raises(ProtocolError, match="more than 123"):
        ws.check_close_frame_data(1000, "x" * 124)


def test_close_bodies_of_no_byte_and_of_one() -> None:
    assert ws.parse_close_frame_data(b"") == (1005, "")
    with pytest.raises(ProtocolError, match="half a close code") as caught:
        ws.parse_close_frame_data(b"\x03")
    assert caught.value.code == 1002


def test_a_close_reason_that_is_no_utf8_is_1007() -> None:
    for action in (
        lambda: ws.parse_close_frame_data(b"\x03\xe8\xff"),
        lambda: ws.check_close_frame_data(1000, b"\xed\xa0\x80"),
    ):
        with pytest.raises(ProtocolError) as caught:
            action()
        assert caught.value.code == 1007


def test_codes_lie_in_the_ranges_of_the_rfc() -> None:
    ranges = (ws.STATUS_NOT_IN_USE, ws.STATUS_PROTOCOL, ws.STATUS_APPLICATION, ws.STATUS_PRIVATE)
    assert [*itertools.chain(*ranges)] == [*range(5000)]
    assert 1004 in ws.STATUS_PROTOCOL
    assert 4999 in ws.STATUS_PRIVATE
    assert [code for code in StatusCode if code.is_reserved] == [1004, 1005, 1006, 1015]
    for code in range(-5, 70000):
        assert ws.is_valid_status(code) is bool(frame_shim.code_valid(code) if 0 <= code < 65536 else 0)


# ---- the document


def test_the_client_of_the_document_talks_to_a_server(
    echo_server: EchoServer, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (Path(__file__).resolve().parents[2] / "docs" / "frames.md").read_text()
    (program,) = [block for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "def talk" in block]
    names: dict[str, Any] = {"__name__": "program"}
    exec(compile(program, "docs/frames.md", "exec"), names)
    names["talk"](echo_server.host, echo_server.port, ["hello", "grüße", "x" * 70000])
    out = capsys.readouterr().out.splitlines()
    assert out == ["hello", "grüße", "x" * 70000, "closed: 1000 "]
    assert echo_server.wait_closed()[1:] == (1000, "that was all")
