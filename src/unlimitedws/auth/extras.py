"""Packages that not everybody needs: imported when they are used, or the message says what to install."""

from __future__ import annotations

import importlib
from typing import Any

__all__ = ["need"]


# What a package is called where it is had from, if that is something else.
_DISTRIBUTIONS = {"hdrh": "hdrhistogram", "jwt": "PyJWT", "prometheus_client": "prometheus-client"}


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
        name = _DISTRIBUTIONS.get(package, package)
        raise ImportError(f"{who} needs the package {name}: pip install 'unlimitedws[{extra}]'") from exc
