"""The engine: epoll, upgrade, frames, masking, buffers. Imported by `unlimitedws`; not an interface of its own."""
