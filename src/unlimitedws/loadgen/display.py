"""How far a load is, on stderr: a bar on a terminal, a line a second elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Any

from ..auth.extras import need
from .run import Progress

__all__ = ["Bar", "Lines", "Quiet"]

_LINE_EVERY = 1.0


class Quiet:
    """Says nothing."""

    def __enter__(self) -> Quiet:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        pass

    def show(self, progress: Progress) -> None:
        pass


class Lines(Quiet):
    """A line for each phase, and one a second while it lasts: for logs."""

    def __init__(self) -> None:
        self._phase = ""
        self._said = 0.0

    def show(self, progress: Progress) -> None:
        now = time.monotonic()
        if progress.phase == self._phase and now - self._said < _LINE_EVERY:
            return
        self._phase, self._said = progress.phase, now
        print(f"{progress.phase}: {_status(progress)}", file=sys.stderr, flush=True)


class Bar(Quiet):
    """A bar that is drawn anew, of the library rich."""

    def __init__(self) -> None:
        """
        Raises:
            ImportError: The extra ``load`` is not installed.
        """
        rich = need("rich.progress", "load", "the progress bar")
        console = need("rich.console", "load", "the progress bar").Console(stderr=True)
        self._bar: Any = rich.Progress(
            rich.TextColumn("{task.description:<19}"),
            rich.BarColumn(),
            rich.TextColumn("{task.fields[status]}"),
            console=console,
            transient=True,
            # Drawn when there is something new, by the thread that keeps the load's time.
            auto_refresh=False,
        )
        self._task: Any = None
        self._bar.start()

    def close(self) -> None:
        self._bar.stop()

    def show(self, progress: Progress) -> None:
        if self._task is None:
            self._task = self._bar.add_task(progress.phase, status="")
        self._bar.update(
            self._task,
            description=progress.phase,
            completed=progress.done,
            total=progress.total,
            status=_status(progress),
            refresh=True,
        )


def _status(p: Progress) -> str:
    if p.phase == "connecting":
        parts = [f"{p.open:,} of {p.total:,.0f} open"]
    else:
        parts = [f"{p.done:.0f} of {p.total:.0f} s", f"{p.open:,} open"]
    if p.messages:
        parts.append(f"{p.messages:,} messages")
    elif p.phase != "connecting" and p.upgraded > p.open:
        parts.append(f"{p.upgraded:,} handshakes")
    if p.errors:
        parts.append(f"{p.errors:,} errors")
    return ", ".join(parts)
