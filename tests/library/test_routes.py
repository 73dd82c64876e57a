"""Plain GET beside the sockets, from a client that knows HTTP and nothing else."""

from __future__ import annotations

import asyncio
import http.client
import json
import threading
from typing import Any

import pytest
from live import Live, each_mode, expect_date, serve

from unlimitedws import NewServer, Reject, Request, Response
from unlimitedws.routes import Routes, answer_of, check_path


def get(live: Live, path: str, method: str = "GET", **headers: str) -> tuple[http.client.HTTPResponse, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", live.port, timeout=10)
    try:
        connection.request(
            method, path, headers={name.replace("_", "-"): value for name, value in headers.items()}
        )
        response = connection.getresponse()
        return response, response.read()
    finally:
        connection.close()


@each_mode
def test_route_answers_a_get_and_the_connection_ends(pool: Any, no_fd_leaks: None) -> None:
    with serve(pool=pool) as live:
        assert live.server.route("/healthz", handler := lambda request: "ok\n") is handler
        response, body = get(live, "/healthz")
        assert (response.status, body) == (200, b"ok\n")
        assert response.getheader("Content-Type") == "text/plain; charset=utf-8"
        assert response.getheader("Connection") == "close"
        expect_date(response.getheader("Date"))
        assert live.server.counters()["answered_200"] == 1
        assert live.server.counters()["upgraded"] == 0


def test_path_of_the_page_is_no_route() -> None:
    with NewServer("127.0.0.1:0", page=b"<p>") as server, pytest.raises(ValueError, match="page"):
        server.route("/", lambda request: "ok\n")


@each_mode
def test_handler_sees_the_request_and_chooses_the_response(pool: Any) -> None:
    with serve(pool=pool) as live:

        @live.server.route("/who")
        def who(request: Request) -> Response:
            found = {
                "path": request.path,
                "params": request.params,
                "cookies": dict(request.cookies),
                "agent": request.headers["user-agent"],
                "host": request.remote_addr.host,
            }
            return Response(203, json.dumps(found), {"Content-Type": "application/json", "X-A": "1"})

        response, body = get(live, "/who?a=1&a=2", Cookie="b=3", User_Agent="test")
        assert (response.status, response.getheader("X-A")) == (203, "1")
        assert json.loads(body) == {
            "path": "/who",
            "params": {"a": ["1", "2"]},
            "cookies": {"b": "3"},
            "agent": "test",
            "host": "127.0.0.1",
        }


@each_mode
def test_handler_may_be_async(pool: Any) -> None:
    with serve(pool=pool) as live:

        @live.server.route("/slow")
        async def slow(request: Request) -> bytes:
            await asyncio.sleep(0.001)
            return b"\0\1"

        response, body = get(live, "/slow")
        assert (response.status, body, response.getheader("Content-Type")) == (
            200,
            b"\0\1",
            "application/octet-stream",
        )


@each_mode
def test_handler_that_raises_is_500_and_reported(pool: Any) -> None:
    with serve(pool=pool) as live:
        live.server.route("/broken", lambda request: 1 / 0)
        response, body = get(live, "/broken")
        assert (response.status, body) == (500, b"The server failed to handle this request.\n")
        request, exc = live.errors.get(timeout=10)
        assert isinstance(request, Request) and isinstance(exc, ZeroDivisionError)


@each_mode
def test_handler_past_its_deadline_is_503(pool: Any) -> None:
    leave = threading.Event()
    with serve(pool=pool, request_timeout=0.05) as live:
        live.server.route("/stuck", lambda request: leave.wait(10) and "late")
        try:
            assert get(live, "/stuck")[0].status == 503
        finally:
            leave.set()


@pytest.mark.parametrize("name", ["Date", "date", "DATE"])
def test_date_that_the_handler_sets_is_the_only_one(name: str) -> None:
    long_ago = "Sun, 06 Nov 1994 08:49:37 GMT"
    with serve() as live:
        live.server.route("/cached", lambda request: Response(200, "old\n", {name: long_ago}))
        response, body = get(live, "/cached")
        assert (response.headers.get_all("Date"), body) == ([long_ago], b"old\n")


def test_every_answer_to_a_plain_get_has_a_date() -> None:
    with serve(page=b"<p>page") as live:
        live.server.route("/broken", lambda request: 1 / 0)
        live.server.route("/gone", lambda request: Response(204))
        live.server.route("/no", lambda request: Reject(403))
        for path, status in (("/", 200), ("/broken", 500), ("/gone", 204), ("/no", 403), ("/other", 426)):
            response, _ = get(live, path)
            assert response.status == status
            assert len(response.headers.get_all("Date", [])) == 1, path
            expect_date(response.getheader("Date"))


def test_other_paths_and_methods_get_what_they_got_without_routes() -> None:
    with serve() as live:
        live.server.route("/healthz", lambda request: "ok")
        assert get(live, "/")[0].status == 426
        response, _ = get(live, "/other")
        assert (response.status, response.getheader("Upgrade")) == (426, "websocket")
        for method, status in (("POST", 405), ("HEAD", 405), ("DELETE", 405)):
            response, _ = get(live, "/healthz", method)
            assert (response.status, response.getheader("Allow")) == (status, "GET")
        with live.connect(path="/healthz") as client:
            client.close_cleanly()


def test_page_stays_where_it_is_beside_the_routes() -> None:
    with serve(page=b"<p>page") as live:
        live.server.route("/healthz", lambda request: "ok")
        assert get(live, "/")[1] == b"<p>page"
        assert get(live, "/healthz")[1] == b"ok"


def test_route_may_be_added_while_the_server_runs_and_before() -> None:
    with serve() as live:
        assert get(live, "/x")[0].status == 426
        live.server.route("/x", lambda request: "one")
        assert get(live, "/x")[1] == b"one"
        live.server.stop()
        live.server.start()
        assert get(live, "/x")[1] == b"one"


def test_large_answer_arrives_whole() -> None:
    with serve() as live:
        big = bytes(range(256)) * 20_000
        live.server.route("/big", lambda request: big)
        assert get(live, "/big")[1] == big


def test_rejection_is_an_answer_too() -> None:
    assert answer_of(Reject(404), "x").status == 404
    assert answer_of("x", "x").body == "x"
    assert answer_of(b"x", "x").body == b"x"


@pytest.mark.parametrize("path", ["", "healthz", "/a?b", "/a#b", "/a b", "/é", "/a\r\n", "*", "http://x/a"])
def test_path_that_no_request_can_have_is_refused(path: str) -> None:
    with pytest.raises(ValueError, match="is no path"):
        check_path(path)
    with NewServerStopped() as server, pytest.raises(ValueError, match="is no path"):
        server.route(path, lambda request: "")


class NewServerStopped:
    """A server that listens and does not run."""

    def __enter__(self) -> Any:
        self.server = NewServer("127.0.0.1:0")
        return self.server

    def __exit__(self, *_: object) -> None:
        self.server.stop()


def test_two_handlers_of_one_path_are_a_mistake() -> None:
    routes = Routes()
    assert not routes
    routes.add("/a", len)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="route /a: there is one already"):
        routes.add("/a", repr)
    assert routes.get("/a") is len
    assert routes.get("/b") is None
    assert routes


def test_handler_that_cannot_be_called_is_refused() -> None:
    with NewServerStopped() as server:
        with pytest.raises(TypeError, match="route /a: must be a function"):
            server.route("/a", "ok")
        with pytest.raises(TypeError, match="a path is a str, not bytes"):
            server.route(b"/a", lambda request: "")
