"""Several processes on one port, and their parent: real ones, killed and interrupted, that leave nothing behind."""

from __future__ import annotations

import os
import re
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import raw
from live import expect_eof, ping, wait_until
from programs import PATIENCE, PRELUDE, Program
from raw import TEXT, RawClient

import unlimitedws
from unlimitedws import ending

WORKERS = 3

SERVER = """
import logging, os, sys, threading, time
import unlimitedws

logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(message)s")
server = unlimitedws.NewServer({addr!r}, workers={workers}, **{options!r})

@server.on_message
def on_message(conn, message):
    if message == "who":
        conn.send(f"{{server.worker}} {{os.getpid()}}")
    elif message == "exit":
        sys.exit(7)
    elif message == "block":
        conn.send("blocked")
        time.sleep(60)
    elif message == "stop":
        server.stop()
    else:
        conn.send(message)

def tell(*words):
    # In one piece: all of them write to the same pipe.
    os.write(1, (" ".join(map(str, words)) + "\\n").encode())

def ready():
    tell("port", server.local_addr.port)
"""

RUN = "server.run(ready=ready)\ntell('returned', server.running)\n"


class Group:
    """A parent, its workers, and their clients."""

    def __init__(self, run: str = RUN, addr: str = "127.0.0.1:0", workers: int = WORKERS, **options: Any) -> None:
        # SIGTERM stops; draining has a test of its own.
        options.setdefault("drain_time", 0)
        text = SERVER.format(addr=addr, workers=workers, options=options)
        self.program = Program("-c", PRELUDE + text + run)
        self.clients: list[RawClient] = []
        self.known: set[int] = set()
        self.port = 0
        line = self.program.line()
        self.said = [line]
        while line and not line.startswith("port"):
            line = self.program.line()
            self.said.append(line)
        if line:
            self.port = int(line.split()[1])
            self.known.update(self.workers())

    def __enter__(self) -> Group:
        return self

    def __exit__(self, *_: object) -> None:
        for client in self.clients:
            client.close()
        left = self.workers() if self.program.process.poll() is None else []
        self.program.kill()
        for pid in left:
            wait_until(lambda pid=pid: not is_there(pid), f"process {pid} has ended")  # type: ignore[misc]

    @property
    def pid(self) -> int:
        return self.program.process.pid

    def workers(self) -> list[int]:
        """The parent's children that run."""
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
        return [int(pid) for pid in children]

    def connect(self) -> RawClient:
        client = RawClient(self.port)
        self.clients.append(client)
        return client

    def connect_each(self) -> dict[int, RawClient]:
        """Connect until there is a client of each worker; by worker's index."""
        found: dict[int, RawClient] = {}

        def complete() -> bool:
            client = self.connect()
            found.setdefault(who(client)[0], client)
            return len(found) == WORKERS

        # One that has just been started takes its time to serve.
        wait_until(complete, "a connection to each worker")
        return found

    def signal(self, number: signal.Signals) -> None:
        self.program.signal(number)

    def hear(self, what: str) -> str:
        """Wait until it says something; returns its first group."""
        while (found := re.search(what, line := self.program.line())) is None:
            assert line, f"it has ended without saying {what}"
        return found[found.re.groups and 1]

    def finish(self) -> str:
        """Let the clients go, stop, and wait for the end."""
        for client in self.clients:
            client.close()
        self.signal(signal.SIGTERM)
        return self.end()

    def end(self, status: int = 0) -> str:
        """Wait for the end; nothing is left of it. Returns what it has printed."""
        known = self.known | set(self.workers() if self.program.process.poll() is None else ())
        code, out, err = self.program.end()
        assert (code, err) == (status, ""), (code, out, err)
        assert not [pid for pid in known if is_there(pid)]
        if self.port:
            with socket.socket() as again:
                again.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                again.bind(("127.0.0.1", self.port))
        return out


def is_there(pid: int) -> bool:
    """Whether there is such a process, be it a zombie."""
    return Path(f"/proc/{pid}").exists()


def who(client: RawClient) -> tuple[int, int]:
    """The index and the process of a client's worker."""
    client.send_frame(TEXT, "who")
    said = client.recv_message()
    assert isinstance(said, str)
    index, pid = said.split()
    return int(index), int(pid)


def leave(client: RawClient, code: int = 1001) -> None:
    """Be told to leave, and leave."""
    assert client.recv_close().code == code
    client.send_close(code)
    expect_eof(client)
    client.close()


def test_each_worker_serves_and_knows_which_it_is() -> None:
    with Group() as group:
        clients = group.connect_each()
        assert sorted(clients) == list(range(WORKERS))
        pids = {who(client)[1] for client in clients.values()}
        assert pids == set(group.workers())
        assert group.pid not in pids
        for client in group.clients:
            ping(client)
        group.signal(signal.SIGTERM)
        for client in group.clients:
            leave(client)
        assert group.end().endswith("returned False\n")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_stops_all_and_closes_every_connection_with_1001(number: signal.Signals) -> None:
    with Group() as group:
        clients = group.connect_each().values()
        group.signal(number)
        for client in group.clients:
            leave(client)
        assert clients
        group.end()


def test_signal_that_all_of_them_get_is_not_taken_for_a_second_one() -> None:
    # As a terminal and a service manager send it. A second one would drop the connections.
    for number in (signal.SIGINT, signal.SIGTERM):
        with Group() as group:
            group.connect_each()
            for pid in (*group.workers(), group.pid):
                os.kill(pid, number)
            for client in group.clients:
                leave(client)
            group.end()


def test_second_signal_drops_those_who_do_not_answer() -> None:
    with Group(close_timeout=60) as group:
        clients = group.connect_each()
        group.signal(signal.SIGTERM)
        for client in clients.values():
            assert client.recv_close().code == 1001
        group.signal(signal.SIGTERM)
        group.end()


STORM = """
import operator
# Once run() has returned a signal does what it did before: nothing, for as long as this goes on.
for number in (signal.SIGTERM, signal.SIGINT):
    signal.signal(number, operator.is_)
server.run(ready=ready)
tell("returned", server.running)
os._exit(0)
"""


def test_storm_of_signals_ends_as_three_of_them_do() -> None:
    with Group(STORM, workers=2, drain_time=20) as group:
        client = group.connect()
        client.send_frame(TEXT, "block")
        assert client.recv_message() == "blocked"
        # Until the one that does not return is killed there is time for very many.
        while group.program.process.poll() is None:
            group.signal(signal.SIGTERM)
        out = group.end()
        assert out.endswith("returned False\n")
        assert out.count("draining 2 workers") == 1


def test_no_number_of_signals_is_too_urgent_to_be_told() -> None:
    options, urgency = unlimitedws.Options(), ending.NONE
    for _ in range(1000):
        urgency = ending.more_urgent(options, urgency, signal.SIGTERM)
    assert urgency == ending.NOW


def test_killed_worker_is_replaced_and_nobody_else_notices() -> None:
    with Group() as group:
        clients = group.connect_each()
        index, pid = who(clients[1])
        os.kill(pid, signal.SIGKILL)
        with pytest.raises((EOFError, ConnectionResetError)):
            clients[1].recv_frame()
        for other in (0, 2):
            clients[other].send_frame(TEXT, "still here")
            assert clients[other].recv_message() == "still here"
        again = group.connect_each()
        assert who(again[1])[0] == index and who(again[1])[1] != pid
        for other in (0, 2):
            ping(clients[other])
        out = group.finish()
        assert f"worker 1 (process {pid}) has been killed by SIGKILL" in out


def test_workers_end_when_their_parent_is_killed() -> None:
    with Group(close_timeout=2) as group:
        clients = group.connect_each()
        workers = group.workers()
        group.program.process.kill()
        group.program.process.wait()
        for client in clients.values():
            leave(client)
        for pid in workers:
            wait_until(lambda pid=pid: not is_there(pid), f"worker {pid} has ended")  # type: ignore[misc]
        with socket.socket() as again:
            again.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            again.bind(("127.0.0.1", group.port))


def test_worker_whose_parent_was_killed_does_not_wait_for_a_callback() -> None:
    with Group(close_timeout=0.1) as group:
        client = group.connect()
        client.send_frame(TEXT, "block")
        assert client.recv_message() == "blocked"
        pid = next(iter(group.workers()))
        workers = group.workers()
        group.program.process.kill()
        group.program.process.wait()
        assert pid in workers
        for pid in workers:
            wait_until(lambda pid=pid: not is_there(pid), f"worker {pid} has ended")  # type: ignore[misc]


def test_worker_whose_callback_does_not_return_is_killed_when_all_stop() -> None:
    with Group(close_timeout=0.1) as group:
        client = group.connect()
        client.send_frame(TEXT, "block")
        assert client.recv_message() == "blocked"
        group.signal(signal.SIGTERM)
        assert "does not end: killing it" in group.end()


FAILS_AT_START = """
def on_worker(index):
    if index == 1:
        raise ValueError("no database")
try:
    server.run(ready=ready, on_worker=on_worker)
except RuntimeError as exc:
    tell("raised", exc)
    sys.exit(3)
"""


def test_worker_that_ends_before_all_serve_stops_everything_at_once() -> None:
    with Group(FAILS_AT_START) as group:
        assert not group.port
        out = "\n".join(group.said) + group.end(3)
        assert re.search(r"raised worker 1 \(process \d+\) has ended with status 1 before all 3 served", out)
        assert "ValueError: no database" in out


FAILS_LATER = """
starts = {marker!r}
def on_worker(index):
    with open(starts, "a") as file:
        file.write("x")
    if os.path.getsize(starts) > 3:
        raise ValueError("no database")
try:
    server.run(ready=ready, on_worker=on_worker)
except RuntimeError as exc:
    tell("raised", exc)
    sys.exit(3)
"""


def test_worker_that_dies_again_and_again_is_given_up(tmp_path: Path) -> None:
    marker = tmp_path / "starts"
    run = FAILS_LATER.replace("{marker!r}", repr(str(marker)))
    with Group(run, worker_restart_limit=3) as group:
        survivor = group.connect()
        _, pid = who(survivor)
        victim = next(one for one in group.workers() if one != pid)
        os.kill(victim, signal.SIGKILL)
        leave(survivor)
        out = group.end(3)
        assert re.search(r"raised 4 workers died within 60 s; the last: worker \d .* ended with status 1", out)
        # Three at first; one for the killed one, and one for each of the two that died at their start.
        assert marker.read_text() == "x" * (WORKERS + 3)


def test_exit_in_a_callback_ends_that_worker_alone_and_it_is_replaced() -> None:
    with Group() as group:
        clients = group.connect_each()
        pid = who(clients[0])[1]
        clients[0].send_frame(TEXT, "exit")
        leave(clients[0])
        for other in (1, 2):
            ping(clients[other])
        assert who(group.connect_each()[0])[1] != pid
        assert f"worker 0 (process {pid}) has ended with status 7" in group.finish()


def test_stop_in_a_callback_ends_that_worker_alone_and_it_is_replaced() -> None:
    with Group() as group:
        clients = group.connect_each()
        pid = who(clients[2])[1]
        clients[2].send_frame(TEXT, "stop")
        leave(clients[2])
        ping(clients[0])
        assert who(group.connect_each()[2])[1] != pid
        group.finish()


def test_hangup_replaces_the_workers_one_by_one_and_somebody_always_serves() -> None:
    with Group() as group:
        group.connect_each()
        before = set(group.workers())
        done = threading.Event()
        refused: list[BaseException] = []
        cut_off: list[BaseException] = []

        def are_replaced() -> bool:
            # The kernel's list is short of some, now and then, while one of them ends.
            assert group.program.process.poll() is None, group.program.end()
            now = set(group.workers())
            return len(now) >= WORKERS and not before & now

        def come() -> None:
            while not done.wait(0.005):
                try:
                    with RawClient(group.port, handshake=False) as client:
                        client.send(raw.request())
                        assert client.recv_response().status == 101
                except (EOFError, ConnectionResetError) as exc:
                    # It stopped between accepting and the request: of one visitor at a time, one at most.
                    cut_off.append(exc)
                except Exception as exc:
                    refused.append(exc)

        threads = [threading.Thread(target=come)]
        # Each leaves when it is told to; the second worker's only when the first has gone.
        threads += [threading.Thread(target=leave, args=(client,)) for client in group.clients]
        for thread in threads:
            thread.start()
        try:
            group.signal(signal.SIGHUP)
            # Three interpreters start, one after the other.
            wait_until(are_replaced, "all are replaced", PATIENCE)
            after = set(group.workers())
        finally:
            done.set()
        assert len(after) == WORKERS
        for thread in threads:
            thread.join()
        assert not refused
        assert len(cut_off) <= WORKERS
        del group.clients[:]
        assert {who(client)[1] for client in group.connect_each().values()} == after
        out = group.finish()
        # Not before its successor served, and not before the one before it had gone.
        events = re.findall(r"worker (\d) \(process \d+\) (serves|has ended)", out[: out.index("stopping")])
        assert events == [(str(i), event) for i in range(WORKERS) for event in ("serves", "has ended")]


def test_hangup_that_was_ignored_stays_ignored() -> None:
    # nohup
    with Group("signal.signal(signal.SIGHUP, signal.SIG_IGN)\n" + RUN) as group:
        client = group.connect()
        group.signal(signal.SIGHUP)
        group.signal(signal.SIGTERM)
        leave(client)
        assert "replacing" not in group.end()


def test_successor_that_dies_while_the_one_before_it_drains_leaves_no_worker_too_many() -> None:
    with Group(drain_time=60, close_timeout=60) as group:
        group.connect_each()
        group.signal(signal.SIGHUP)
        # When the parent has said so it asks the one before to leave, and then sees what became of this one.
        successor = group.hear(r"process (\d+)\) serves")
        os.kill(int(successor), signal.SIGKILL)
        replacement = group.hear(r"process (\d+)\) serves")
        group.signal(signal.SIGHUP)
        group.hear("replacing")
        for client in group.clients:
            client.close()
        gone = group.known | {int(replacement)}
        wait_until(lambda: not gone & set(group.workers()), "all are replaced")
        wait_until(lambda: len(group.workers()) == WORKERS, "there are as many as before")
        group.finish()


# Signals come at a moment that nobody can choose from outside: before the fork has returned, and whenever it closes a
# descriptor, the first of them those of its parent's.
BORN = """
forks = []
def born():
    if len(forks) == {fork}:
        os.kill(os.getpid(), signal.SIGTERM)
    close = os.close
    def closing(fd):
        os.kill(os.getpid(), signal.SIGHUP)
        os.kill(os.getpid(), signal.SIGINT)
        close(fd)
    os.close = closing
os.register_at_fork(before=lambda: forks.append(None), after_in_child=born)
"""


def test_worker_heeds_the_signals_that_came_before_its_handlers() -> None:
    with Group(BORN.format(fork=WORKERS + 1) + RUN) as group:
        victim = who(group.connect())[1]
        os.kill(victim, signal.SIGKILL)
        # The fourth took it for an order to leave, and the fifth serves.
        assert group.hear(r"\) has (been killed|ended .*)") == "been killed"
        assert group.hear(r"\) has (been killed|ended .*)") == "ended with status 0"
        group.connect_each()
        group.finish()


def test_sigterm_drains_every_worker_and_a_second_one_stops_them() -> None:
    with Group(drain_time=60) as group:
        clients = group.connect_each()
        group.signal(signal.SIGTERM)

        def is_told_to_go_elsewhere() -> bool:
            with RawClient(group.port, handshake=False) as client:
                client.send(raw.request())
                return client.recv_response().status == 503

        # The first ones may come before the workers have heard of it.
        wait_until(is_told_to_go_elsewhere, "a newcomer is refused")
        group.signal(signal.SIGTERM)
        codes = []
        for client in clients.values():
            codes.append(client.recv_close().code)
            client.send_close(codes[-1])
            expect_eof(client)
        # One of them may have had its turn in the first moment of the minute.
        assert set(codes) <= {1001, 1012} and 1001 in codes
        for client in group.clients:
            client.close()
        out = group.end()
        assert out.index("draining 3 workers") < out.index("stopping ")


def test_drain_in_the_parent_drains_every_worker() -> None:
    run = """
def later():
    sys.stdin.readline()
    server.drain(0.2, 4001)
    tell("drained", server.running)
server.run(ready=lambda: (ready(), threading.Thread(target=later).start()))
"""
    with Group(run) as group:
        clients = group.connect_each()
        group.program.say()
        for client in clients.values():
            leave(client, 4001)
        for client in group.clients:
            client.close()
        assert "drained" in group.end()


STOPS = "server.run(ready=lambda: (ready(), threading.Thread(target=server.stop, args=(5,)).start()))\n"


def test_stop_in_the_parent_stops_all() -> None:
    with Group(STOPS, addr="127.0.0.1:0") as group:
        group.end()


def test_what_ready_raises_stops_all_and_comes_out_of_run() -> None:
    run = """
try:
    server.run(ready=lambda: 1 / 0)
except ZeroDivisionError:
    sys.exit(4)
"""
    with Group(run) as group:
        group.end(4)


RUNS_TWICE = """
server.run(ready=lambda: (ready(), os.kill(os.getpid(), 15)))
server.run(ready=ready)
"""


def test_it_can_be_run_again_on_the_same_port() -> None:
    with Group(RUNS_TWICE) as group:
        port = group.port
        line = group.program.line()
        while not line.startswith("port"):
            line = group.program.line()
        assert line == f"port {port}"
        for client in group.connect_each().values():
            ping(client)
        group.finish()


def test_unix_socket_is_shared_and_its_file_is_the_parents(tmp_path: Path) -> None:
    path = tmp_path / "app.sock"
    with Group(addr=f"unix:{path}") as group:
        # Three workers have ended and closed it before this.
        for pid in group.workers():
            os.kill(pid, signal.SIGTERM)
        wait_until(lambda: not group.known & set(group.workers()), "all are replaced")
        wait_until(lambda: len(group.workers()) == WORKERS, "there are as many again")
        assert path.is_socket()
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
            client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            assert client.recv(100).startswith(b"HTTP/1.1 426")
        group.port = 0
        group.signal(signal.SIGTERM)
        group.end()
        assert not path.exists()


def test_workers_have_random_numbers_and_identities_of_their_own() -> None:
    run = """
import random
random.seed(1)
def on_worker(index):
    tell("worker", index, server.worker, random.random())
tell("parent", server.worker)
server.run(ready=ready, on_worker=on_worker)
"""
    with Group(run) as group:
        group.signal(signal.SIGTERM)
        text = "\n".join(group.said) + "\n" + group.end()
        assert "parent None" in text
        found = re.findall(r"worker (\d) (\d) (\S+)", text)
        assert sorted(index for index, _, _ in found) == ["0", "1", "2"]
        assert all(index == own for index, own, _ in found)
        assert len({number for _, _, number in found}) == WORKERS


@pytest.fixture
def server(no_fd_leaks: None) -> Iterator[unlimitedws.Server]:
    made = unlimitedws.NewServer("127.0.0.1:0", workers=2)
    yield made
    made.stop()


def enter(server: unlimitedws.Server) -> None:
    with server:
        pass


def run_elsewhere(server: unlimitedws.Server) -> None:
    raised: list[BaseException] = []

    def run() -> None:
        try:
            server.run()
        except BaseException as exc:
            raised.append(exc)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    raise raised[0]


@pytest.mark.parametrize("way", [unlimitedws.Server.start, enter, run_elsewhere], ids=["start", "with", "thread"])
def test_several_workers_are_started_by_run_in_the_main_thread_only(
    server: unlimitedws.Server, way: Callable[[unlimitedws.Server], None]
) -> None:
    with pytest.raises(RuntimeError, match=r"workers=2: only (run\(\)|the main thread)"):
        way(server)
    assert not server.running
    assert server.worker is None


def test_several_workers_are_not_forked_beside_a_server_that_runs(server: unlimitedws.Server) -> None:
    with unlimitedws.NewServer("127.0.0.1:0"), pytest.raises(RuntimeError, match="no server may run"):
        server.run()
    assert not server.running


def test_command_line_has_loops_and_workers() -> None:
    program = Program("-m", "unlimitedws", "echo", "--addr", "127.0.0.1:0", "--workers", "2", "--loops", "2")
    try:
        match = re.search(r"listening on 127\.0\.0\.1:(\d+)", program.line())
        assert match
        with RawClient(int(match[1])) as client:
            client.send_frame(TEXT, "x")
            assert client.recv_message() == "x"
            program.signal(signal.SIGINT)
            leave(client)
        assert program.end() == (0, "", "")
    finally:
        program.kill()
