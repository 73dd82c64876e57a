from __future__ import annotations

import hashlib
import hmac
import json
import logging
import random
import sys
import time
from typing import Any

import pytest
from library.auth.heads import segment

from unlimitedws.auth import JWT, Identity

jwt = pytest.importorskip("jwt")

KEY = "k" * 64
# However long the tests run, and whenever.
UNTIL = 4_000_000_000
CLAIMS = {"sub": "alice", "exp": UNTIL}
HASHES = {"HS256": hashlib.sha256, "HS384": hashlib.sha384, "HS512": hashlib.sha512}


def token(
    claims: Any = None, *, key: str | bytes = KEY, alg: str = "HS256", header: Any = None, **more: Any
) -> str:
    """Sign a token by hand: nothing here refuses what a verifier should refuse.

    claims: An object, or the text of one. more: further claims; header: further members of the header.
    """
    if not isinstance(claims, str | bytes):
        claims = {**CLAIMS, **(claims or {}), **more}
        claims = {name: value for name, value in claims.items() if value is not ...}
    if not isinstance(header, str | bytes):
        header = {"alg": alg, "typ": "JWT", **(header or {})}
    text = f"{segment(header)}.{segment(claims)}"
    raw = key.encode() if isinstance(key, str) else key
    return f"{text}.{segment(hmac.new(raw, text.encode(), HASHES[alg]).digest())}"


@pytest.fixture
def verify() -> JWT:
    return JWT(KEY, ["HS256"])


def test_good_token_says_whose_it_is(verify: JWT) -> None:
    identity = verify(token(role="admin"))
    assert identity == Identity("alice", None, UNTIL)
    assert identity.claims == {**CLAIMS, "role": "admin"}


def test_session_is_sid_or_else_jti_or_what_was_chosen(verify: JWT) -> None:
    assert verify(token(jti="j")) == Identity("alice", "j", UNTIL)
    assert verify(token(jti="j", sid="s")) == Identity("alice", "s", UNTIL)
    chosen = JWT(KEY, ["HS256"], session_claim="login", user_claim="email", require=["exp", "email"])
    assert chosen(token(jti="j", login="l", email="a@b.c")) == Identity("a@b.c", "l", UNTIL)


@pytest.mark.parametrize("claim", ["exp", "sub"])
def test_token_without_expiry_or_user_is_nobodys(verify: JWT, claim: str) -> None:
    assert verify(token({claim: ...})) is None


def test_expiry_may_be_done_without_on_purpose() -> None:
    assert JWT(KEY, ["HS256"], require=[])(token(exp=...)) == Identity("alice")


@pytest.mark.parametrize("user", [None, "", 7, True, ["alice"], {"a": 1}])
def test_user_that_is_no_text_is_nobody(verify: JWT, user: Any) -> None:
    assert verify(token(sub=user)) is None
    other = JWT(KEY, ["HS256"], user_claim="uid")
    assert other(token(uid=user)) is None


@pytest.mark.parametrize("session", ["", 7, True, ["s"], {"a": 1}])
def test_session_that_is_no_text_is_nobodys(verify: JWT, session: Any) -> None:
    assert verify(token(sid=session)) is None


# --- time ---


def test_times_are_those_of_the_rfc_and_leeway_widens_them() -> None:
    strict, lax = JWT(KEY, ["HS256"]), JWT(KEY, ["HS256"], leeway=30)
    now = int(time.time())
    for claims in ({"exp": now - 5}, {"nbf": now + 15}, {"iat": now + 15}):
        assert strict(token(claims)) is None, claims
        assert lax(token(claims)) is not None, claims
    for claims in ({"exp": now - 60}, {"nbf": now + 90}, {"iat": now + 90}):
        assert lax(token(claims)) is None, claims


def test_identity_lives_as_long_as_its_token_is_good() -> None:
    # Else one that is good because of the leeway would be expired already.
    ended = int(time.time()) - 5
    identity = JWT(KEY, ["HS256"], leeway=30)(token(exp=ended))
    assert identity is not None
    assert identity.expires == ended + 30


@pytest.mark.parametrize("claim", ["exp", "nbf", "iat"])
@pytest.mark.parametrize(
    "value",
    [
        *("NaN", "Infinity", "-Infinity", "1e400", "-1e400", "true", "false", "null", "[1]", "{}", '""'),
        *('"1700000000"', f'"{UNTIL}"', "1" + "0" * 400, "9" * 5000),
    ],
)
def test_time_that_is_no_number_is_nobodys(verify: JWT, claim: str, value: str) -> None:
    rest = "" if claim == "exp" else f', "exp": {UNTIL}'
    text = f'{{"sub": "alice", "{claim}": {value}{rest}}}'
    assert verify(token(text)) is None
    assert JWT(KEY, ["HS256"], require=[])(token(text)) is None


# --- whose signature ---


def test_other_key_and_changed_token_are_nobodys(verify: JWT) -> None:
    assert verify(token(key="x" * 64)) is None
    good = token()
    assert verify(good) is not None
    header, claims, signature = good.split(".")
    forged = segment({**CLAIMS, "sub": "admin"})
    for bad in (
        f"{header}.{forged}.{signature}",
        f"{header}.{claims}.",
        f"{header}.{claims}",
        f"{header}.{claims}.{signature}.{signature}",
        f"{header}.{claims}.{signature[:-4]}",
        f".{claims}.{signature}",
        f"{header}..{signature}",
        "",
        ".",
        "..",
        "...",
        "\u00e9.\u00e9.\u00e9",
        "\ud800",
        "a" * 8192,
        good * 40,
        good + "\n",
        " " + good,
    ):
        assert verify(bad) is None, bad


def test_token_has_one_spelling(verify: JWT) -> None:
    header, claims, signature = token().split(".")
    for spelling in (
        "!!!!" + signature,
        signature + "=",
        signature + "====",
        signature[:4] + "\n   " + signature[4:],
    ):
        assert verify(f"{header}.{claims}.{spelling}") is None


def test_noise_is_nobodys(verify: JWT) -> None:
    good = token()
    noise = random.Random(7519)
    for _ in range(3000):
        text = list(good)
        for _ in range(noise.randint(1, 6)):
            text[noise.randrange(len(good) - 1)] = noise.choice("._-=+/ \x00\n\u00e9\u4e16Az09")
        changed = "".join(text)
        assert changed == good or verify(changed) is None, changed


@pytest.mark.parametrize(
    "alg", ["none", "None", "NONE", "nOnE", "", "HS256 ", "hs256", None, 7, ["HS256"], "RS256", "ES256"]
)
def test_token_that_chooses_its_algorithm_is_nobodys(verify: JWT, alg: Any) -> None:
    header = {"alg": alg, "typ": "JWT"}
    unsigned = f"{segment(header)}.{segment(CLAIMS)}."
    assert verify(unsigned) is None
    assert verify(token(header=header)) is None


def test_another_hash_than_allowed_is_nobodys() -> None:
    only = JWT(KEY, ["HS512"])
    assert only(token(alg="HS512")) is not None
    assert only(token(alg="HS256")) is None
    assert only(token(alg="HS384")) is None


def test_public_key_is_no_shared_secret() -> None:
    rsa = pytest.importorskip("cryptography.hazmat.primitives.asymmetric.rsa")
    from cryptography.hazmat.primitives import serialization

    private = rsa.generate_private_key(65537, 2048)
    public = private.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    verify = JWT(public, ["RS256"])
    assert verify(jwt.encode(CLAIMS, private, "RS256")) == Identity("alice", None, UNTIL)
    for alg in HASHES:
        # The classic: HMAC with the text of the public key.
        assert verify(token(key=public, alg=alg)) is None
    with pytest.raises(ValueError, match="only one kind"):
        JWT(public, ["RS256", "HS256"])
    with pytest.raises(ValueError, match="key: is no key for HS256") as raised:
        JWT(public, ["HS256"])
    assert "BEGIN" not in str(raised.value)
    assert raised.value.__cause__ is None and raised.value.__context__ is None


def test_key_in_the_header_is_not_looked_at(verify: JWT) -> None:
    mine = "m" * 64
    jwk = {"kty": "oct", "k": segment(mine), "alg": "HS256"}
    for header in (
        {"jwk": jwk},
        {"jku": "http://127.0.0.1:9/keys"},
        {"x5u": "http://127.0.0.1:9"},
        {"x5c": ["AAAA"]},
    ):
        assert verify(token(key=mine, header=header)) is None
        assert verify(token(header=header)) is not None


def test_header_that_demands_to_be_understood_is_nobodys(verify: JWT) -> None:
    headers: list[Any] = [{"crit": ["b64"], "b64": False}, {"crit": ["exp"]}, {"crit": []}, {"crit": None}]
    for header in headers:
        assert verify(token(header=header)) is None


@pytest.mark.parametrize(
    "header",
    ["", "null", "[]", '"x"', "{", "[" * 5000, '{"alg":' * 900, '{"alg": "HS256", "kid": 7}', b"\xff\xfe"],
)
def test_header_that_is_none_is_nobodys(verify: JWT, header: Any) -> None:
    assert verify(token(header=header)) is None


@pytest.mark.parametrize(
    "claims", ["", "null", "[]", '"alice"', "{", "7", "[" * 5000, b"\xff\xfe", '{"sub": "alice"']
)
def test_claims_that_are_none_are_nobodys(verify: JWT, claims: Any) -> None:
    assert verify(token(claims)) is None


def test_keys_are_chosen_by_kid() -> None:
    one, two = "1" * 64, "2" * 64
    verify = JWT({"k1": one, "k2": two}, ["HS256"])
    assert verify(token(key=one, header={"kid": "k1"})) is not None
    assert verify(token(key=two, header={"kid": "k2"})) is not None
    assert verify(token(key=two, header={"kid": "k1"})) is None
    assert verify(token(key=one)) is None
    for kid in ("k3", "", "../../dev/null", None, 1, ["k1"], {"k1": 1}):
        assert verify(token(key=one, header={"kid": kid})) is None


# --- for whom, by whom ---


def test_token_for_somebody_else_is_nobodys() -> None:
    mine = JWT(KEY, ["HS256"], audience="ws")
    assert mine(token(aud="ws")) is not None
    assert mine(token(aud=["api", "ws"])) is not None
    for aud in ("api", "w", "wss", ["api"], [], "", None, 7, {"ws": 1}, [["ws"]], ...):
        assert mine(token(aud=aud)) is None, aud
    several = JWT(KEY, ["HS256"], audience=["ws", "chat"])
    assert several(token(aud="chat")) is not None
    assert several(token(aud="api")) is None


def test_token_with_an_audience_is_nobodys_where_none_is_expected(verify: JWT) -> None:
    assert verify(token(aud="api")) is None


def test_token_of_another_issuer_is_nobodys() -> None:
    mine = JWT(KEY, ["HS256"], issuer="https://id.example.com")
    assert mine(token(iss="https://id.example.com")) is not None
    for iss in (
        "https://id.example.com/",
        "https://id.example",
        "",
        None,
        7,
        ["https://id.example.com"],
        ...,
    ):
        assert mine(token(iss=iss)) is None, iss
    several = JWT(KEY, ["HS256"], issuer=["a", "b"])
    assert several(token(iss="b")) is not None
    assert several(token(iss="ab")) is None


# --- arguments ---


@pytest.mark.parametrize("algorithms", [["none"], ["None"], ["HS256", "NONE"]])
def test_no_signature_is_no_algorithm(algorithms: list[str]) -> None:
    with pytest.raises(ValueError, match="no signature"):
        JWT(KEY, algorithms)


@pytest.mark.parametrize("algorithms", [[], (), ["HS1"], ["hs256"], ["HS256,RS256"], [""]])
def test_unknown_algorithms_are_refused(algorithms: Any) -> None:
    with pytest.raises(ValueError, match="algorithms: "):
        JWT(KEY, algorithms)


@pytest.mark.parametrize("algorithms", ["HS256", None, 7, [None], [256]])
def test_algorithms_that_are_no_list_of_names_are_refused(algorithms: Any) -> None:
    with pytest.raises(TypeError):
        JWT(KEY, algorithms)


def test_algorithms_must_be_given() -> None:
    with pytest.raises(TypeError, match="algorithms"):
        JWT(KEY)  # type: ignore[call-arg]


@pytest.mark.parametrize(("alg", "least"), [("HS256", 32), ("HS384", 48), ("HS512", 64)])
def test_secret_shorter_than_the_hash_is_refused(alg: str, least: int) -> None:
    JWT("k" * least, [alg])
    JWT(b"k" * least, [alg])
    for key in ("k" * (least - 1), b"k" * (least - 1), "", b"", {}, {"k1": ""}, {"k1": "k" * (least - 1)}):
        with pytest.raises(ValueError, match="key: ") as raised:
            JWT(key, [alg])
        assert "kkk" not in str(raised.value)


@pytest.mark.parametrize("key", [None, 7, ["k" * 64], {"k1": None}])
def test_secret_that_is_no_text_is_refused(key: Any) -> None:
    with pytest.raises(TypeError, match="key: "):
        JWT(key, ["HS256"])


def test_public_key_that_is_none_is_refused_without_being_shown() -> None:
    pytest.importorskip("cryptography")
    for key in ("s3cr3t", b"s3cr3t", "-----BEGIN PUBLIC KEY-----\ns3cr3t\n-----END PUBLIC KEY-----", 7, None):
        with pytest.raises(ValueError, match="key: is no key for ES256") as raised:
            JWT(key, ["ES256"])
        assert "s3cr3t" not in str(raised.value)
        assert raised.value.__context__ is None


@pytest.mark.parametrize(
    "arguments",
    [
        {"audience": ""},
        {"audience": []},
        {"audience": ["ws", ""]},
        {"issuer": ""},
        {"issuer": []},
        {"leeway": -1},
    ],
)
def test_empty_expectations_are_refused(arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(arguments))):
        JWT(KEY, ["HS256"], **arguments)


def test_log_tells_the_kind_of_failure_and_nothing_of_the_token(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    verify = JWT(KEY, ["HS256"])
    texts = [
        token(exp=int(time.time()) - 5),
        token(aud="s3cr3t"),
        token(key="x" * 64),
        token(sub=7),
        "s3cr3t",
        token(sid=5),
    ]
    for text in texts:
        assert verify(text) is None
    assert [record.getMessage() for record in caplog.records][:3] == [
        "JWT: ExpiredSignatureError",
        "JWT: InvalidAudienceError",
        "JWT: InvalidSignatureError",
    ]
    assert len(caplog.records) == len(texts)
    for secret in (*texts, "s3cr3t", KEY):
        assert secret not in caplog.text
        assert secret not in repr(verify)


def test_missing_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jwt", None)
    with pytest.raises(ImportError, match=r"pip install 'unlimitedws\[jwt\]'"):
        JWT(KEY, ["HS256"])


def test_signing_by_hand_is_signing() -> None:
    assert jwt.decode(token(), KEY, ["HS256"]) == json.loads(json.dumps(CLAIMS))
