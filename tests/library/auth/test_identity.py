from __future__ import annotations

import math
from typing import Any

import pytest

from unlimitedws.auth import Identity


@pytest.mark.parametrize("user", [None, ""])
def test_identity_of_nobody_is_refused(user: Any) -> None:
    with pytest.raises(ValueError, match="needs a user"):
        Identity(user)


@pytest.mark.parametrize("user", [0, 7, "alice", ("tenant", 3), False])
def test_user_is_whatever_the_application_calls_its_users(user: Any) -> None:
    assert Identity(user).user == user


@pytest.mark.parametrize("name", ["user", "session"])
def test_key_that_connections_cannot_be_found_by_is_refused(name: str) -> None:
    keys: dict[str, Any] = {"user": "alice", name: ["list"]}
    with pytest.raises(TypeError, match=f"{name}: must be hashable"):
        Identity(**keys)


@pytest.mark.parametrize("expires", [math.nan, math.inf, -math.inf, 10**400])
def test_expiry_that_never_comes_is_refused(expires: Any) -> None:
    with pytest.raises(ValueError, match="finite"):
        Identity("alice", expires=expires)


@pytest.mark.parametrize("expires", [True, False, "1700000000", b"1", 1j, [1]])
def test_expiry_that_is_no_number_is_refused(expires: Any) -> None:
    with pytest.raises(TypeError, match="unix time"):
        Identity("alice", expires=expires)


@pytest.mark.parametrize("expires", [None, 0, -5, 1.5, 2**53])
def test_expiry_is_unix_time(expires: Any) -> None:
    assert Identity("alice", expires=expires).expires == expires


def test_repr_shows_neither_session_nor_claims() -> None:
    identity = Identity("alice", "s3cr3t-session", 5.0, {"email": "alice@s3cr3t"})
    assert "alice" in repr(identity)
    assert "s3cr3t" not in repr(identity)
