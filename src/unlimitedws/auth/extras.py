"""Packages that only some verifiers need: imported when one is made, or the message says what to install."""

from __future__ import annotations

import importlib
from typing import Any

__all__ = ["need"]


def need(module: str, extra: str, who: str) -> Any:
    """Import a module of an optional extra.

    Raises:
        ImportError: It is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as exc:
        if exc.name != module:
            raise
        raise ImportError(f"{who} needs the package {module}: pip install 'unlimitedws[{extra}]'") from exc
