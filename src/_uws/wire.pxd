# F6. Nothing of wire is for other modules of the engine: see wire.pyx and wire.pyi.
