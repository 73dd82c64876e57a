"""The engine: epoll, upgrade, frames, masking, buffers. For `unlimitedws`; not an interface of its own."""

# First, whichever module is asked for: the engine's top floor takes exceptions and types from the library, which in
# turn imports the engine. Begun from here it always finds its modules whole.
import unlimitedws  # noqa: F401
