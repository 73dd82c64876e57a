"""Windows through which the tests reach the engine's floors; built by UWS_SHIMS=1, never shipped."""
