"""F6. The types of `_uws.dispatch`: the hooks of a loop."""

from collections.abc import Callable

from typing_extensions import disjoint_base

@disjoint_base
class Dispatch:
    """What every `_uws.core.Loop` is: the hooks, and whoever calls them. Not made by itself."""

    def set_hook(self, name: str, func: Callable[..., object] | None) -> None:
        """Set or clear (None) a hook; the next callback is the new one.

        Args:
            name: "on_connect", "on_read", "on_close" (called with the connection), or "on_message"
                (connection, message), which is used instead of "on_read" where it is set; "on_fragment"
                (connection, Fragment), which is used instead of both. A hook that is None
                costs nothing. "on_drain" (connection): its send queue was above the high mark, and is down to the
                low one. "on_pong" (connection, payload). "on_recall" (connection): see `Conn._recall`. Or
                "on_request" and "on_route", called with an `Exchange`: for each valid upgrade request, and for each
                plain GET but one of the page. They answer it at once, or keep it and answer later.
            func: The function; None clears the hook.

        Raises:
            ValueError: There is no hook of that name.

        Thread: any, at any time.
        """
