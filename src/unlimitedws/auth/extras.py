"""Packages that not everybody needs: imported when they are used, or the message says what to install."""

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
        package = module.partition(".")[0]
        if exc.name not in (module, package):
            raise
        raise ImportError(f"{who} needs the package {package}: pip install 'unlimitedws[{extra}]'") from exc
