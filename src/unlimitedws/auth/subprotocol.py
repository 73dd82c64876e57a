"""A token among the offered subprotocols: the one header that a page can put a token in.

``new WebSocket(url, ["chat", "bearer." + token])``. The field is not logged as commonly as the address is.
The answer selects ``chat``: an answer that echoed the token would show it where answers are logged, and as
`WebSocket.protocol` to every script.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from ..durations import Duration
from ..request import Accept, Request, check_subprotocol, check_token
from .authenticator import Authenticator, Refusal, Verify
from .identity import Identity
from .origins import OriginRule

__all__ = ["SubprotocolAuth"]


class SubprotocolAuth(Authenticator):
    """Authenticate by a token that is offered as a subprotocol, beside the real ones.

    A subprotocol is a token of HTTP: letters, digits and ``!#$%&'*+-.^_`|~``. JWT and URL-safe base64 without
    its ``=`` are, other credentials have to be encoded.

    Args:
        verify: See `Authenticator`; gets the token, without the prefix.
        prefix: The token's, ``"bearer."`` by default: ``["chat", "bearer.abc"]`` offers ``abc``.
        pair: In place of the prefix: the offer after this one is the token, ``["chat", "token", "abc"]``.
        subprotocols: The real ones, ours, the one we like best first: the first of them that the client
            offers is selected, and who offers none gets 400. Empty: `Server.subprotocols` selects. A browser
            that offered something and has nothing selected drops the connection.
        origins, grace: See `Authenticator`.

    Raises:
        TypeError, ValueError: As `Authenticator`; one of the names is not a token (RFC 9110, section 5.6.2);
            one of the subprotocols has more than 255 bytes, or would be taken for a credential.
    """

    def __init__(
        self,
        verify: Verify,
        *,
        prefix: str = "bearer.",
        pair: str | None = None,
        subprotocols: Iterable[str] = (),
        origins: OriginRule = None,
        grace: Duration = 0.0,
    ) -> None:
        super().__init__(verify, origins=origins, grace=grace)
        if isinstance(subprotocols, str):
            raise TypeError(f"subprotocols: must be a list, not one string: [{subprotocols!r}]?")
        self._prefix = check_token(prefix, "prefix")
        self._pair = None if pair is None else check_token(pair, "pair")
        self._subprotocols = [
            check_subprotocol(check_token(name, "subprotocols"), "subprotocols") for name in subprotocols
        ]
        for name in self._subprotocols:
            if name == self._pair or (pair is None and name.startswith(prefix)):
                raise ValueError(f"subprotocols: {name!r} would be taken for a credential")

    def find(self, request: Request) -> str | Refusal | None:
        """Return the token."""
        offers = request._offered()
        at = self._places(offers)
        if not at:
            return None
        if len(at) > 1:
            return Refusal(f"SubprotocolAuth: {len(at)} tokens")
        if self._pair is None:
            return offers[at[0]][len(self._prefix) :]
        if at[0] + 1 == len(offers):
            return Refusal("SubprotocolAuth: no token behind the name of the pair")
        return offers[at[0] + 1]

    def accept(self, request: Request, identity: Identity) -> Accept | Refusal:
        """Select one of the real subprotocols."""
        accept = super().accept(request, identity)
        offers = request._offered()
        # A token of a pair may be spelled as a subprotocol of ours; it is no offer.
        at = self._places(offers)[0]
        del offers[at : at + (1 if self._pair is None else 2)]
        request._offers = offers
        if not self._subprotocols or isinstance(accept, Refusal):
            return accept
        for name in self._subprotocols:
            if name in offers:
                return replace(accept, subprotocol=name)
        return Refusal("SubprotocolAuth: none of our subprotocols is offered beside the token", 400)

    def _places(self, offers: list[str]) -> list[int]:
        if self._pair is None:
            return [i for i, offer in enumerate(offers) if offer.startswith(self._prefix)]
        return [i for i, offer in enumerate(offers) if offer == self._pair]
