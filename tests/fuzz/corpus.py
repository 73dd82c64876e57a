"""Inputs that the fuzzer has found and that are kept: corpus/NAME.txt, one a line, in hexadecimal.

Each reaches code that neither the seeds nor those before it reach, or is one on which something was wrong once: above
such a one a comment says what.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

CORPUS = Path(__file__).parent / "corpus"


def kept(name: str) -> list[bytes]:
    """Return a target's inputs."""
    path = CORPUS / f"{name}.txt"
    if not path.exists():
        return []
    return [bytes.fromhex(line) for line in path.read_text().splitlines() if line and not line.startswith("#")]


def keep(name: str, inputs: Iterable[bytes]) -> int:
    """Add inputs that are not there yet; return how many."""
    known = set(kept(name))
    new = sorted({data.hex() for data in inputs if data not in known}, key=lambda line: (len(line), line))
    if new:
        CORPUS.mkdir(exist_ok=True)
        with (CORPUS / f"{name}.txt").open("a") as file:
            file.writelines(line + "\n" for line in new)
    return len(new)
