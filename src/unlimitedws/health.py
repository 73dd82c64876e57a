"""Whether a server takes new clients, for load balancers and orchestrators: ``GET /healthz``."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from .request import Request, Response

if TYPE_CHECKING:
    from .server import Server

__all__ = ["health"]


def health(server: Server) -> Callable[[Request], Response]:
    """Return a handler for `Server.route`: ``server.route("/healthz", unlimitedws.health(server))``.

    It answers 200 ``ok``, and 503 ``draining`` from the moment that `Server.drain` is called, or SIGTERM comes: so
    whoever spreads new clients sends them elsewhere while those who are here leave.

    It also tells that Python runs. A program that computes for longer than the prober waits is not healthy by this
    measure, though its connections are well.

    Args:
        server: Whose health; another server, on an address of its own, may answer.
    """

    def answer(request: Request) -> Response:
        fields = {"Cache-Control": "no-store"}
        if server.draining:
            return Response(503, "draining\n", fields)
        return Response(200, "ok\n", fields)

    return answer
