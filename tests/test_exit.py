"""The end of the interpreter, over and over, with clients connected: in good time, not a word on stderr.

In processes of their own. What goes wrong at an exit goes wrong now and then: so each way out is taken often.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import raw
from raw import TEXT, RawClient

ROOT = Path(__file__).resolve().parents[1]
RUNS = 20
AT_ONCE = 10
# Of one process, from its port to its end.
LIMIT_S = 10.0

PRELUDE = f"""
import sys; sys.path[:0] = [{str(ROOT / "src")!r}]
import os, threading, time
import unlimitedws
from unlimitedws import wsutil

server = unlimitedws.{{kind}}("127.0.0.1:0", drain_time=0)

@server.on_read
def on_read(conn):
    message, op = wsutil.read_client_data(conn)
    if message == b"exit":
        sys.exit(7)
    if message == b"interrupt":
        raise KeyboardInterrupt
    if message == b"sleep":
        time.sleep(0.2)
    wsutil.write_server_message(conn, op, message)

def ready():
    print(server.local_addr.port, flush=True)
"""

# The line that comes in says that clients are connected, and in the middle of their messages.
LEAVE = """
server.start()
ready()
sys.stdin.readline()
"""

RUN = "server.run(ready=ready)\n"

CHILD = """
server.start()
ready()
sys.stdin.readline()
pid = os.fork()
if pid == 0:
    {way}
_, status = os.waitpid(pid, 0)
assert status == 0, status
"""


class Program:
    """A server's process and clients: one echoes, one is silent, one not upgraded, one does not read."""

    def __init__(self, kind: str, body: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", PRELUDE.format(kind=kind) + body],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=dict(os.environ, PYTHONDEVMODE="0"),
        )
        assert self.process.stdout is not None
        self.clients: list[RawClient] = []
        try:
            port = int(self.process.stdout.readline())
            self.talker = RawClient(port)
            self.clients = [self.talker, RawClient(port), RawClient(port, handshake=False)]
            self.clients.append(RawClient(port, rcvbuf=4096))
            for client in (self.talker, self.clients[3]):
                client.send_frame(TEXT, "x" * 100)
            assert self.talker.recv_message() == "x" * 100
            self.clients[3].send(raw.frame(TEXT, "y" * 60_000) * 10)
        except BaseException:
            self.process.kill()
            self.process.communicate()
            raise

    def say(self) -> None:
        """Let the program go on."""
        assert self.process.stdin is not None
        self.process.stdin.write(b"\n")
        self.process.stdin.flush()

    def hear(self) -> bytes:
        """The next line that the program prints."""
        assert self.process.stdout is not None
        return self.process.stdout.readline()

    def finish(self) -> tuple[int, bytes]:
        """Wait for the end: exit code and stderr."""
        try:
            _, complaints = self.process.communicate(timeout=LIMIT_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            _, complaints = self.process.communicate()
            pytest.fail(f"the process did not end within {LIMIT_S} s; stderr: {complaints!r}")
        finally:
            for client in self.clients:
                client.close()
        return self.process.returncode, complaints


def answer_every_close(program: Program) -> None:
    """End as clients do that are told to leave, so that nobody waits for the close timeout."""
    for client in program.clients[1:]:
        client.close()
    got = program.talker.recv_close()
    program.talker.send_close(got.code)
    program.talker.close()


each_kind = pytest.mark.parametrize("kind", ["NewServer", "DefaultServer"], ids=["inline", "pool"])


def together(kind: str, body: str) -> Iterator[Program]:
    """Programs by the handful: most of their time they wait for a peer that does not answer."""
    for _ in range(RUNS // AT_ONCE):
        programs: list[Program] = []
        try:
            programs.extend(Program(kind, body) for _ in range(AT_ONCE))
            yield from programs
            assert [program.finish() for program in programs] == [(0, b"")] * AT_ONCE
        finally:
            for program in programs:
                program.process.kill()


@each_kind
def test_leaving_without_stop(kind: str) -> None:
    for program in together(kind, LEAVE):
        program.say()


@each_kind
def test_leaving_while_a_callback_sleeps(kind: str) -> None:
    for program in together(kind, LEAVE):
        program.talker.send_frame(TEXT, "sleep")
        program.say()


@each_kind
def test_sys_exit_in_a_callback(kind: str) -> None:
    for _ in range(RUNS):
        program = Program(kind, RUN)
        program.talker.send_frame(TEXT, "exit")
        answer_every_close(program)
        assert program.finish() == (7, b"")


@each_kind
def test_keyboard_interrupt_in_a_callback(kind: str) -> None:
    # It comes out of run(): the program decides. Uncaught, Python itself would print a traceback.
    body = "try:\n    server.run(ready=ready)\nexcept KeyboardInterrupt:\n    sys.exit(5)\n"
    for _ in range(RUNS):
        program = Program(kind, body)
        program.talker.send_frame(TEXT, "interrupt")
        answer_every_close(program)
        assert program.finish() == (5, b"")


@pytest.mark.parametrize("way", ["os._exit(0)", "sys.exit(0)", "server.stop(); sys.exit(0)"])
def test_child_of_a_fork_leaves_without_a_word_and_the_parent_serves_on(way: str) -> None:
    body = CHILD.replace("{way}", way) + "print('forked', flush=True)\nsys.stdin.readline()\n"
    for program in together("DefaultServer", body):
        program.say()
        assert program.hear() == b"forked\n"
        program.talker.send_frame(TEXT, "still here")
        assert program.talker.recv_message() == "still here"
        program.say()


def test_second_signal_while_peers_do_not_answer() -> None:
    for program in together("DefaultServer", RUN):
        program.process.send_signal(signal.SIGTERM)
        # Two of a kind that come at the same time are one: the first has to be at work before the second.
        program.talker.recv_close()
        program.process.send_signal(signal.SIGTERM)
