"""The engine: epoll, upgrade, frames, masking, buffers. For `unlimitedws`; not an interface of its own."""
