# F6. See messages.pyx.

from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.unicode cimport PyUnicode_DecodeUTF8

from _uws.proto cimport UWS_EV_FRAGMENT, UWS_EVF_FIRST, UwsEvent


cdef inline bytes event_payload(const UwsEvent* event):
    return PyBytes_FromStringAndSize(<char*>event.data, event.len_bytes)


cdef inline str event_text(const UwsEvent* event):
    # The engine has validated it already; this only builds the str.
    return PyUnicode_DecodeUTF8(<char*>event.data, event.len_bytes, NULL)


cdef inline bint event_goes_on(const UwsEvent* event) noexcept nogil:
    """Whether it goes on with a message that began before."""
    return event.kind == UWS_EV_FRAGMENT and not (event.flags & UWS_EVF_FIRST)


# A message, or a piece of one that is streamed, as a Fragment.
cdef object event_fragment(const UwsEvent* event)
