"""The targets: what an input is put to, and what has to be true of what comes out.

An input begins with four bytes of options: two for what can be set, two for where it is cut. The rest is what comes
over the wire. Each target is a function of one input that raises what is wrong; the driver (driver.c) stops there.
"""

from __future__ import annotations

import codecs
import ipaddress
import os
import re
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import h11
import handshakes
import inflate_oracle
import rfc
from differential import readers, reading
from differential.comparing import Tally, check
from differential.readers import Outcome
from differential.streams import Stream, Terms
from uws_shims import deflate_shim, fuzz_frames_shim, fuzz_http_shim, http_shim, proxy_shim

from unlimitedws.address import Address
from unlimitedws.proxies import FIELDS, Proxies
from unlimitedws.request import Cookies, Request

from . import judging, seeds

OPTIONS = struct.Struct("<BBH")
# One in so many inputs is put to the slow oracles: which, hangs on the input alone.
ORACLE_EVERY = int(os.environ.get("UWS_FUZZ_ORACLE_EVERY", "1"))


class Target(NamedTuple):
    """One thing to fuzz.

    seeds: inputs to begin with. max_bytes: longer inputs are not made. dictionary: in dictionaries/, or "".
    in_python: what is fuzzed is Python, so that it is its lines that count as coverage.
    """

    run: Callable[[bytes], None]
    seeds: Callable[[], Iterable[bytes]]
    max_bytes: int
    dictionary: str
    in_python: bool


TARGETS: dict[str, Target] = {}


Function = Callable[[int, int, int, bytes], None]


def target(max_bytes: int, dictionary: str = "", in_python: bool = False) -> Callable[[Function], Function]:
    """Register a function of two options, a seed for the cuts, and what comes over the wire."""

    def register(function: Function) -> Function:
        def run(data: bytes) -> None:
            if len(data) >= OPTIONS.size:
                function(*OPTIONS.unpack_from(data), data[OPTIONS.size :])

        name = function.__name__
        TARGETS[name] = Target(run, getattr(seeds, name), max_bytes, dictionary, in_python)
        return function

    return register


def runner(name: str) -> Callable[[bytes], None]:
    """Return what the driver is to run; "planted": one of the mistakes that have to be found, by its name."""
    if name == "planted":
        return fuzz_frames_shim.planted
    return TARGETS[name].run


def ask_slow_oracle(body: bytes) -> bool:
    return zlib.crc32(body) % ORACLE_EVERY == 0


def same(ours: object, theirs: object, what: str = "") -> None:
    """A plain comparison: `python -O` must not take it away."""
    if ours != theirs:
        raise AssertionError(f"{what}: ours {ours!r}, the oracle's {theirs!r}")


# ---- frames


class Said(NamedTuple):
    """An event of the notes that a harness hands over."""

    kind: int
    opcode: int
    flags: int
    code: int
    reply: int
    payload: bytes


ENTRY = struct.Struct("=BBBxHHI")
FIRST, FINAL = fuzz_frames_shim.FIRST, fuzz_frames_shim.FINAL


def unpacked(notes: bytes) -> Iterator[Said]:
    at = 0
    while at < len(notes):
        kind, opcode, flags, code, reply, size = ENTRY.unpack_from(notes, at)
        at += ENTRY.size + size
        yield Said(kind, opcode, flags, code, reply, notes[at - size : at])


def events(notes: bytes, names: dict[int, str]) -> list[reading.Event]:
    """Bring them to the form of the other readers; messages that come in pieces are put together."""
    found: list[reading.Event] = []
    opcode, parts = 0, b""
    for said in unpacked(notes):
        name = names.get(said.kind)
        if name == "piece":
            if said.flags & FIRST:
                same((opcode, parts), (0, b""), "a message begins within another")
                opcode = said.opcode
            same(said.opcode, opcode, "the opcode of a piece")
            parts += said.payload
            if said.flags & FINAL:
                found.append(("message", opcode, parts))
                opcode, parts = 0, b""
        elif name == "message":
            found.append((name, said.opcode, said.payload))
        elif name == "close":
            found.append((name, said.code, said.payload))
        elif name is not None:
            found.append((name, said.payload))
    return found


OF_PROTO = {2: "message", 3: "close", 4: "ping", 5: "pong", 7: "piece"}
# More than frames of 2 ** 63 - 1 bytes can be declared to have together.
NO_LIMIT = 1 << 80
OF_CLIENT = {1: "piece", 2: "ping", 3: "pong", 4: "close"}


@target(max_bytes=512, dictionary="utf8")
def utf8(_one: int, _two: int, seed: int, body: bytes) -> None:
    refused = fuzz_frames_shim.utf8(body, seed)
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        text = decoder.decode(body)
    except UnicodeDecodeError as exc:
        # The byte that cannot be right: the first of a character, or one behind the well-formed part of it.
        same(refused, exc.start if exc.reason == "invalid start byte" else exc.end, "refused at")
    else:
        left = decoder.getstate()[0]
        if b"\xed\xa0" <= left < b"\xed\xc0":
            # The beginning of a surrogate, of which CPython wants to see the end.
            same(refused, len(body) - 1, "refused at")
            return
        same(refused, -2 if left else -1, "not refused")
        same(text.encode() + left, body)


MOST = (2**64 - 1, 125, 65_535, 1 << 20)


def header(data: bytes, most: int) -> tuple[int, tuple[object, ...] | None]:
    """(status, fields) of a header (RFC 6455, 5.2): its size, 0 for more, an error."""
    if len(data) < 2:
        return 0, None
    short, masked = data[1] & 127, data[1] >> 7
    extra = {126: 2, 127: 8}.get(short, 0)
    if short == 127 and data[2:3] >= b"\x80":
        return fuzz_frames_shim.E_PROTOCOL, None
    coded = data[2 : 2 + extra]
    if len(coded) < extra:
        return 0, None
    length = int.from_bytes(coded, "big") if extra else short
    if (extra, length) not in [
        (0 if bits == 7 else bits // 8, length) for bits, _, minimal in rfc.forms(length) if minimal
    ]:
        return fuzz_frames_shim.E_PROTOCOL, None
    if length > most:
        return fuzz_frames_shim.E_TOO_BIG, None
    size = 2 + extra + 4 * masked
    if len(data) < size:
        return 0, None
    key = data[size - 4 : size] if masked else bytes(4)
    return size, (data[0] >> 7, data[0] >> 4 & 7, data[0] & 15, masked, length, key, size)


@target(max_bytes=160, dictionary="frames")
def frame(one: int, _two: int, _seed: int, body: bytes) -> None:
    """A header, and as what the bytes are read otherwise: the body of a close frame."""
    most = MOST[one % len(MOST)]
    status, took, fields = fuzz_frames_shim.frame(body, most)
    same((status, fields), header(body[:15], most), "header")
    if status:
        same(header(body[:took], most)[0], status, f"after {took} bytes")
        same(header(body[: took - 1], most)[0], 0, f"before {took} bytes")
    close(body)


def close(body: bytes) -> None:
    """The body of a close frame (RFC 6455, 5.5.1), and the frame that we would answer it with."""
    status, code = fuzz_frames_shim.close(body)
    if not body:
        same((status, code), (fuzz_frames_shim.OK, 1005))
        return
    said, reason = int.from_bytes(body[:2], "big"), body[2:]
    if len(body) == 1 or len(body) > 125 or not rfc.may_be_sent(said):
        same((status, code), (fuzz_frames_shim.E_PROTOCOL, None))
        return
    try:
        text = reason.decode()
    except UnicodeDecodeError:
        same((status, code), (fuzz_frames_shim.E_UTF8, None))
        return
    same((status, code), (fuzz_frames_shim.OK, said))
    same(fuzz_frames_shim.written_close(1005, reason), b"\x88\x00", "without a code")
    for long in (text, text * 4):
        written = fuzz_frames_shim.written_close(said, long.encode())
        same(fuzz_frames_shim.close(written[2:]), (fuzz_frames_shim.OK, said), "read back")
        kept = written[4:].decode()
        same(written[:2], bytes([0x88, len(written) - 2]))
        same(kept, long[: len(kept)])
        if kept != long and len((kept + long[len(kept)]).encode()) <= 123:
            raise AssertionError(f"more of the reason would fit: {kept!r} of {long!r}")


LIMITS = (1 << 20, 1 << 20, 1000, 125)


@target(max_bytes=1024, dictionary="frames")
def proto(one: int, two: int, seed: int, body: bytes) -> None:
    """What a client sends."""
    limit = LIMITS[one & 3]
    terms = Terms((15, 15, 12, 9)[one >> 2 & 3], bool(one & 32)) if one & 16 else None
    settings = {
        "window_bits": 15 if terms else 0,
        "kept": terms is not None and terms.takeover,
        "client_bits": terms.bits if terms else 15,
        "max_message_bytes": limit,
        "max_stream_bytes": limit,
    }
    if one & 128:
        # Whatever the limits are, how it is cut must not matter.
        settings |= {"max_message_bytes": 1 + two, "max_stream_bytes": 1 + two // 2, "max_fragments": 1 + (two & 7)}
        fuzz_frames_shim.proto(body, seed, stream=bool(one & 64), **settings)
        return
    # Fragments are counted where messages are not streamed; no input has so many.
    whole = fuzz_frames_shim.proto(body, seed, max_fragments=1 << 20, **settings)
    streamed = fuzz_frames_shim.proto(body, seed, stream=True, max_fragments=1 << 20, **settings)
    same(streamed[0], whole[0], "status where it is streamed")
    same(events(streamed[1], OF_PROTO), events(whole[1], OF_PROTO), "streamed")
    if ask_slow_oracle(body):
        code = fuzz_frames_shim.close_code(whole[0]) if whole[0] else None
        same(Outcome(events(whole[1], OF_PROTO), code), readers.ours([body], terms, limit), "by another shim")
        check(Stream(0, limit, terms, body, (), ()), Tally())


def from_a_client(data: bytes) -> bytes:
    """Return a server's frames as a client would send them: masked, with a key of zeros. One that is masked, which a
    server's must not be, becomes one that is not, which a client's must not be."""
    out, pos = bytearray(), 0
    while len(data) - pos >= 2:
        first, second = data[pos : pos + 2]
        out += bytes([first, second ^ 0x80])
        size = 2 + {126: 2, 127: 8}.get(second & 127, 0)
        if second & 0x80 or len(data) - pos < size:
            return bytes(out) + data[pos + 2 :]
        coded = data[pos + 2 : pos + size]
        length = int.from_bytes(coded, "big") if coded else second
        out += coded + bytes(4) + data[pos + size : pos + size + length]
        pos += size + length
    return bytes(out) + data[pos:]


@target(max_bytes=1024, dictionary="frames")
def client(_one: int, _two: int, seed: int, body: bytes) -> None:
    """What a server sends to the load generator."""
    trusting = fuzz_frames_shim.client(body, seed, False)
    status, notes = fuzz_frames_shim.client(body, seed, True)
    if status != fuzz_frames_shim.E_UTF8:
        same((status, notes), trusting, "where text is checked, and where it is not")
    found = events(notes, OF_CLIENT)
    said = reading.read(from_a_client(body), None, NO_LIMIT)
    same(found, said.events, "events")
    code = fuzz_frames_shim.close_code(status) if status else None
    if code not in said.codes and not (code is None and (not said.codes or not said.due)):
        raise AssertionError(f"failed with {code}, which is none of {said.codes}")


# ---- deflate

SLOW_BYTES = 4096


def compare_inflated(
    status: int, message: bytes, raw: bytes, window: bytes, limit: int, bits: int = 15
) -> reading.Inflated | None:
    """bits: of the window that was agreed on. None: the oracle would take too long."""
    said = reading.by_zlib(raw, window, limit)
    if len(said.payload) <= SLOW_BYTES:
        said = reading.inflated(raw, window, limit)
    elif not said.good:
        return None
    is_long = len(said.payload) > limit
    if status == fuzz_frames_shim.OK:
        same((message, said.good, is_long), (said.payload, True, False), "inflated")
    elif status == fuzz_frames_shim.E_TOO_BIG:
        same(is_long or said.fills_limit or before_damage(raw, window)[0] > limit, True, "too big")
    else:
        # What zlib was shown behind a message that is cut may have made it longer than it is.
        is_whole = said.good and (not is_long or before_damage(raw, window)[1])
        is_agreed = is_whole and inflate_oracle.inflate(raw, window).farthest <= 1 << bits
        same((status, is_agreed), (fuzz_frames_shim.E_DEFLATE, False), "damaged")
    return said


def before_damage(raw: bytes, window: bytes) -> tuple[int, bool]:
    """How long a message is up to where it is damaged, which CPython's zlib does not tell; and whether it is whole."""
    try:
        return len(inflate_oracle.inflate(raw, window).message), True
    except inflate_oracle.BrokenStreamError as exc:
        return len(exc.so_far), False


@target(max_bytes=512)
def inflate(one: int, two: int, seed: int, body: bytes) -> None:
    """A compressed message by itself, and two from a client that keeps its context."""
    limit = (1 << 20, 4096, 1 + two, 64 * (1 + two))[one & 3]
    status, message = fuzz_frames_shim.inflate(body, limit)
    compare_inflated(status, message, body, b"", limit)
    bits = (15, 15, 12, 9)[one >> 2 & 3]
    at = seed % (len(body) + 1)
    window = b""
    said = fuzz_frames_shim.inflate_in_turn([body[:at], body[at:]], limit, bits)
    for raw, (status, message) in zip((body[:at], body[at:]), said, strict=False):
        found = compare_inflated(status, message, raw, window, limit, bits)
        # Whether zlib sees that a match reaches back farther than was agreed hangs on where its window stands.
        if status != fuzz_frames_shim.OK or found is None or found.farthest > 1 << bits:
            break
        window = (window + message)[-reading.WINDOW_BYTES :]


@target(max_bytes=1024)
def deflate(one: int, two: int, _seed: int, body: bytes) -> None:
    """What we compress, CPython's zlib and we ourselves have to get back."""
    bits, level, mem_level = 8 + one % 8, two % 11 - 1, 1 + two // 11 % 9
    alone, first, second, anew = fuzz_frames_shim.deflate(body, bits, level, mem_level)
    window = max(bits, 9)
    if alone is not None:
        same(zlib.decompressobj(-window).decompress(alone + reading.EMPTY_BLOCK), body, "without a context")
        same(fuzz_frames_shim.inflate(alone, max(1, len(body))), (fuzz_frames_shim.OK, body))
        if len(alone) >= len(body):
            raise AssertionError(f"{len(body)} bytes became {len(alone)}")
    if not body:
        same((alone, first, second, anew), (None,) * 4, "of nothing")
        return
    same(zlib.decompressobj(-window).decompress(anew + reading.EMPTY_BLOCK), body, "with a context forgotten")
    inflater = zlib.decompressobj(-window)
    for compressed in (first, second):
        same(inflater.decompress(compressed + reading.EMPTY_BLOCK), body, "with a context")


NEGOTIATION = handshakes.head()[:-2] + handshakes.EXTENSIONS


@target(max_bytes=512, dictionary="handshake")
def negotiate(one: int, _two: int, _seed: int, body: bytes) -> None:
    """Values of Sec-WebSocket-Extensions, and what other lines the bytes may make."""
    ours = judging.Terms(9 + one % 7, 9 + (one >> 3) % 7, bool(one & 64), bool(one & 128))
    head = NEGOTIATION + body + b"\r\n\r\n"
    answer = deflate_shim.negotiate(head, **ours._asdict())
    verdict = judging.judge(head)
    same(answer is not None, verdict.status == judging.OK, "valid")
    if answer is None:
        return
    offers = judging.extensions(fields(head[: verdict.head_len], b"sec-websocket-extensions"))
    expected = judging.negotiated(offers, ours)
    said, terms = answer
    if expected is None:
        same(said, "", "declined")
    else:
        same((said.encode(), judging.Terms(*terms)), expected, "agreed")


# ---- the handshake


def fields(head: bytes, name: bytes) -> list[bytes]:
    """Return the values of a valid head's fields of a name."""
    lines = (line.partition(b":") for line in head.strip(b"\r\n").split(b"\r\n")[1:])
    return [value.strip(b" \t") for its, _, value in lines if its.lower() == name]


NOWHERE = Address("", 0)


@target(max_bytes=1024, dictionary="handshake")
def upgrade(one: int, two: int, seed: int, body: bytes) -> None:
    """A request head. With small limits only whether it is read the same however it comes."""
    if one & 7:
        limits = {
            "max_head_bytes": 4 * two if one & 1 else 16384,
            "max_fields": two & 15 if one & 2 else 100,
            "max_line_bytes": two if one & 4 else 8192,
        }
        fuzz_http_shim.upgrade(body, seed, **limits)
        return
    status, known = fuzz_http_shim.upgrade(body, seed)
    verdict = judging.judge(body)
    same((status, known["is_plain_get"]), verdict[:2], "judged")
    if verdict.head_len:
        same(known["head_len"], verdict.head_len, "the head ends")
    if verdict.status == judging.OK or verdict.is_plain_get:
        compare_request(body[: verdict.head_len], known)
        for name in (b"x-forwarded-for", b"forwarded"):
            for cap in (2 + two, 4096):
                compare_collected(body[: verdict.head_len], name, cap)


def compare_collected(head: bytes, name: bytes, cap: int) -> None:
    joined = b", ".join(value for value in fields(head, name) if value)
    if len(joined) > cap:
        joined = b"\0" + joined[len(joined) - cap + 1 :]
    same(proxy_shim.collect(head, name, cap), joined, f"{name!r} in {cap} bytes")


def compare_request(head: bytes, known: dict[str, Any]) -> None:
    """A hook reads the head again, in Python, and must not read anything else; h11 reads it too."""
    request = Request(head, NOWHERE, NOWHERE)
    for name in ("method", "target", "path", "query", "host"):
        same(getattr(request, name).encode("latin-1"), known[name], name)
    same((request.origin or "").encode("latin-1"), known["origin"], "origin")
    raw = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in request.headers.raw]
    same(len(raw), known["fields"], "fields")
    if "protocols" in known:
        same([name.encode("latin-1") for name in request.subprotocols], known["protocols"], "subprotocols")
        offers = [
            (name.encode("latin-1"), [(k.encode("latin-1"), v and v.encode("latin-1")) for k, v in parameters])
            for name, parameters in request.extensions
        ]
        same(offers, judging.extensions(fields(head, b"sec-websocket-extensions")), "extensions")
    if not isinstance(request.params, dict) or not isinstance(request.cookies, Cookies):
        raise AssertionError("a part that cannot be read")
    if b" HTTP/1.1\r\n" in head:
        peer = h11.Connection(h11.SERVER)
        peer.receive_data(head.lstrip(b"\r\n"))
        event = peer.next_event()
        if not isinstance(event, h11.Request):
            raise AssertionError(f"h11 says {event!r}")
        same(raw, [(bytes(name), bytes(value)) for name, value in event.headers.raw_items()], "h11's fields")
        same(known["target"], bytes(event.target), "h11's target")


OFFERED = (b"", b"chat", b"a, chat")


@target(max_bytes=768, dictionary="handshake")
def opening(one: int, two: int, seed: int, body: bytes) -> None:
    """A server's response to the load generator."""
    offered = OFFERED[one % 3]
    most = 4 * two if one & 64 else 16384
    status, _, head_len, _, chosen = fuzz_http_shim.opening(body, seed, handshakes.KEY, offered, most)
    if most != 16384:
        return
    expected = judging.opens(body, handshakes.ACCEPT, offered)
    same(status, {judging.BAD: fuzz_http_shim.E_PROTOCOL}.get(expected, expected), "opens")
    if expected == judging.OK:
        same(body[:head_len], body.partition(b"\r\n\r\n")[0] + b"\r\n\r\n", "the head")
        same(chosen, (fields(body[:head_len], b"sec-websocket-protocol") or [b""])[0], "subprotocol")


@target(max_bytes=600, dictionary="proxies")
def proxy(_one: int, _two: int, _seed: int, body: bytes) -> None:
    """The PROXY protocol's header."""
    said, _ = fuzz_http_shim.proxy(body)
    expected = (judging.proxy_line if body[:1] == b"P" else judging.proxy_binary)(body)
    if expected is not None:
        same(said, expected, "header")
    elif said not in (fuzz_http_shim.MORE, fuzz_http_shim.E_ARG):
        raise AssertionError(f"taken for a header: {said}")


QUOTED = re.compile(rb'"(?:\\?%b)+"' % judging.TOKEN[:-1])
SCHEME = re.compile(rb"(?:wss?|https?)://", re.IGNORECASE)


@target(max_bytes=96, dictionary="handshake")
def http(one: int, two: int, _seed: int, body: bytes) -> None:
    """The grammar's leaves: tokens, values, quoted strings, authorities."""
    pos = one % (len(body) + 1)
    end = len(body) - two % (len(body) - pos + 1)
    text = body[pos:end]
    for cls, grammar in CLASSES.items():
        found = grammar.match(body, pos, end)
        same(http_shim.skip(body, pos, end, http_shim.CLASSES[cls]), found.end() if found else pos, cls)
        same(http_shim.is_all(text, http_shim.CLASSES[cls]), not text or bool(grammar.fullmatch(text)), cls)
    found = judging.VALUE.match(body, pos, end)
    same(http_shim.skip_value(body, pos, end), found.end() if found else pos, "value, by words")
    if text[:1] == b'"':
        found = QUOTED.match(body, pos, end)
        same(http_shim.skip_quoted(body, pos, end), found.end() if found else pos, "quoted")
    same(http_shim.check_authority(body, pos, end) == 0, judging.is_authority(text), "authority")
    if re.fullmatch(judging.TARGET, text):
        found = SCHEME.match(text)
        same(http_shim.scheme_len(text), found.end() if found else 0, "scheme")


CLASSES = {
    "token": judging.NAME,
    "target": re.compile(judging.TARGET),
    "value": re.compile(rb"[\t -~\x80-\xff]+"),
    "space": re.compile(rb"[ \t]+"),
    "list": re.compile(rb"[ \t,]+"),
    "host": re.compile(rb"[0-9A-Za-z\-._~!$&'()*+,;=]+"),
    "ipv6": re.compile(rb"[0-9A-Fa-f:.]+"),
    "base64": re.compile(rb"[0-9A-Za-z+/]+"),
}


# ---- what is read in Python

NEAR = Address("10.0.0.1", 4711)
TRUSTED = ("10.0.0.0/8", "2001:db8:1::/48")
PROXIES = {name: Proxies(TRUSTED, name) for name in FIELDS}
GOOD = {FIELDS[0]: "192.0.2.7", FIELDS[1]: 'for="192.0.2.7"'}
NODE = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([0-9.]+))(?::(?:([0-9]{1,5})|_.*))?", re.DOTALL)


def node(text: str) -> Address | None:
    """Read an address as X-Forwarded-For has them; None: it is none."""
    bare = ":" in text and not text.startswith("[") and text.count(":") > 1
    found = None if bare else NODE.fullmatch(text)
    if not bare and not found:
        return None
    host, port = (text, None) if found is None else (found[1] or found[2], found[3])
    try:
        if "%" in host or (found is not None and found[1] and ":" not in host):
            return None
        ip = ipaddress.ip_address(host)
    except ValueError:
        return None
    if int(port or 0) > 65535:
        return None
    return Address(str(getattr(ip, "ipv4_mapped", None) or ip), int(port or 0))


def leftmost_believed(value: str) -> Address:
    """Read X-Forwarded-For from the right, as far as those who wrote it are trusted."""
    networks = [ipaddress.ip_network(text) for text in TRUSTED]
    address = NEAR
    for element in filter(None, (part.strip(" \t") for part in value.split(",")[::-1])):
        if not any(ipaddress.ip_address(address.host) in network for network in networks):
            break
        before = node(element)
        if before is None:
            break
        address = before
    return address


@target(max_bytes=256, dictionary="proxies", in_python=True)
def forwarded(one: int, _two: int, _seed: int, body: bytes) -> None:
    """X-Forwarded-For and Forwarded, as they come through a proxy that is trusted."""
    value, _, more = body.decode("latin-1").partition("\n")
    name = FIELDS[one & 1]
    proxies = PROXIES[name]
    client = proxies.client(NEAR, value)
    if client != NEAR:
        same(str(ipaddress.ip_address(client.host)), client.host, "an address")
        same(0 <= client.port <= 65535, True, "a port")
    if name == FIELDS[0]:
        same(client, leftmost_believed(value), "client")
    # Whatever somebody has written before a trusted proxy added to it.
    same(proxies.client(NEAR, f"{value}, {GOOD[name]}"), Address("192.0.2.7", 0), "behind anything")
    stranger = Address("198.51.100.9", 1)
    same(proxies.client(stranger, value), stranger, "who is not trusted")
    proto, _, host = more.partition("\n")
    seen = proxies.seen(NEAR, {name: value, "x-forwarded-proto": proto, "x-forwarded-host": host})
    same(seen.client, client, "seen")
    if seen.host is not None and re.search(r"[\s/?#@\\<>\"]", seen.host):
        raise AssertionError(f"no host: {seen.host!r}")


PAIR = re.compile(r"([^;=]*)(=?)([^;]*)(?:;|\Z)")


@target(max_bytes=256, in_python=True)
def cookies(_one: int, _two: int, _seed: int, body: bytes) -> None:
    """The values of Cookie fields, one a line."""
    texts = body.decode("latin-1").split("\n")
    found = Cookies(texts)
    expected: dict[str, list[str]] = {}
    for text in texts:
        for name, equals, value in PAIR.findall(text):
            name, value = re.sub(r"\A[ \t]*|[ \t]*\Z", "", name), re.sub(r"\A[ \t]*|[ \t]*\Z", "", value)
            quoted = re.fullmatch(r'"(.*)"', value, re.DOTALL)
            if name and equals:
                expected.setdefault(name, []).append(quoted[1] if quoted else value)
    same({name: found.get_all(name) for name in found}, expected, "cookies")
    same(dict(found), {name: values[0] for name, values in expected.items()}, "first ones")
