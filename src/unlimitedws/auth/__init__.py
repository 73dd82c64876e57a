"""Authentication: who may connect, for how long, and from which pages.

An authenticator finds the credential: `CookieAuth`, `BearerAuth`, `TicketAuth`, `SubprotocolAuth`,
`FirstMessageAuth`, and `AnyOf` several. A verifier says whose it is: `StaticTokens`, `SignedCookie`, `JWT`,
or any function, plain or async, from the credential to an `Identity` or None. `Origins` says which pages may
connect::

    server.auth = BearerAuth(StaticTokens({token: "alice"}))

docs/authentication.md helps to choose.
"""

from __future__ import annotations

from .any_of import AnyOf
from .authenticator import Authenticator, Refusal, Verify
from .bearer import BearerAuth
from .cookie import CookieAuth
from .first_message import FirstMessageAuth
from .identity import Identity
from .jwt import JWT
from .memory_tickets import MemoryTickets, TooManyTickets
from .origins import Origins
from .redact import redact
from .renew import renew
from .signed_cookie import SignedCookie
from .static_tokens import StaticTokens
from .subprotocol import SubprotocolAuth
from .ticket import TicketAuth, TicketStore

__all__ = [
    "JWT",
    "AnyOf",
    "Authenticator",
    "BearerAuth",
    "CookieAuth",
    "FirstMessageAuth",
    "Identity",
    "MemoryTickets",
    "Origins",
    "Refusal",
    "SignedCookie",
    "StaticTokens",
    "SubprotocolAuth",
    "TicketAuth",
    "TicketStore",
    "TooManyTickets",
    "Verify",
    "redact",
    "renew",
]
