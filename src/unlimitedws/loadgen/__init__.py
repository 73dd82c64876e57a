"""A load generator for any WebSocket server: ``unlimitedws bench``, and the same for programs.

::

    from unlimitedws import loadgen

    result = loadgen.run("ws://127.0.0.1:8000/", connections=1000, duration=10)
    print(result.messages_per_second, result.latency.percentile(99))

The engine's threads do the work without the GIL (`_uws.load`); this package says what is to be done, keeps the time,
and reads the counts at the end. It needs the extra ``load``: ``pip install 'unlimitedws[load]'``. See docs/loadgen.md.
"""

from .options import LoadOptions, Mode
from .result import Durations, Result
from .run import LoadError, Progress, Run, run
from .target import Target

__all__ = ["Durations", "LoadError", "LoadOptions", "Mode", "Progress", "Result", "Run", "Target", "run"]
