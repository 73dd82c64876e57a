"""Prints what pyproject.toml requires to build, and what its extras require that the arguments name.

So that versions stand in one place, and that an in-place build does not have to install the library first.
"""

from __future__ import annotations

import sys
from pathlib import Path

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    from pip._vendor import tomli as tomllib


def required(extras: list[str]) -> list[str]:
    data = tomllib.loads((Path(__file__).resolve().parents[1] / "pyproject.toml").read_text())
    requirements = list(data["build-system"]["requires"])
    for extra in extras:
        requirements += data["project"]["optional-dependencies"][extra]
    return list(dict.fromkeys(requirements))


def main(extras: list[str]) -> None:
    print("\n".join(required(extras)))


if __name__ == "__main__":
    main(sys.argv[1:])
