"""F6. The types of the kernels that `unlimitedws.ws` is made of. Only that module uses them.

Thread: any, all of it. Above 256 KiB masking lets go of the GIL.
"""

from typing_extensions import Buffer

def decode_header(data: Buffer, offset: int = 0) -> tuple[int, int, bool, int, bytes | None] | None:
    """Decode the header that begins at offset.

    Returns:
        Opcode, payload length, FIN, reserved bits (RSV1 is 4, RSV3 is 1), and the masking key or None. None
        if the header is not whole. Its size follows from what is returned, as every form but the shortest is
        refused.

    Raises:
        unlimitedws.ProtocolError: The length is not written in the shortest form, or has its top bit set. It
            is raised as soon as the bytes that say so are there.
        ValueError: offset lies outside of data.
    """

def encode_header(opcode: int, length: int, fin: bool, rsv: int, key: Buffer | None) -> bytes:
    """Encode a header, with its masking key if it has one; the shortest form of the length.

    Raises:
        ValueError: A value does not fit its field, or key has not 4 bytes. No other rule is applied.
    """

def masked(data: Buffer, key: Buffer, offset: int = 0) -> bytes:
    """Return a copy of data masked with key; masking again unmasks (RFC 6455, section 5.3).

    Args:
        offset: Where in the payload data begins, of any size.

    Raises:
        ValueError: key has not 4 bytes.
    """

def mask_in_place(data: Buffer, key: Buffer, offset: int = 0) -> None:
    """Mask data where it is.

    Raises:
        BufferError: data is not writable, or not contiguous.
        ValueError: key has not 4 bytes.
    """

def is_utf8(data: Buffer) -> bool:
    """Whether data is UTF-8, whole (RFC 3629)."""

def may_close_with(code: int) -> bool:
    """Whether a close frame may carry this code (RFC 6455, section 7.4, and IANA's registry)."""
