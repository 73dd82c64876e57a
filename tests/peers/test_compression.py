"""Compressing peers: `websockets` and Node's `ws`, with contexts that are kept and without."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from live import Live, echo, serve
from raw import TIMEOUT

from unlimitedws import Compression

from .exchange import BLOB, CLOSE_CODE, CLOSE_REASON, FRAGMENTS

client = pytest.importorskip("websockets.sync.client")
deflate = pytest.importorskip("websockets.extensions.permessage_deflate")

HERE = Path(__file__).resolve().parent / "node"
NODE = shutil.which("node")
TIMEOUT_S = 60.0
TEXTS = ["the same for all of them " * (i % 9 * 20) for i in range(60)]
ROWS = [json.dumps({"id": i, "name": f"user {i}", "text": text}) for i, text in enumerate(TEXTS)]
LONG = "".join(ROWS) * 4

OPTIONS = {
    "reset": Compression(),
    "kept": Compression(server_context_takeover=True, client_context_takeover=True),
    "small": Compression(
        server_context_takeover=True, client_context_takeover=True, mem_level=1, threshold=0,
        server_max_window_bits=9, client_max_window_bits=9,
    ),
}  # fmt: skip


@pytest.fixture(params=OPTIONS)
def live(request: pytest.FixtureRequest, no_fd_leaks: None) -> Iterator[Live]:
    with serve(compression=OPTIONS[request.param], on_read=echo, max_buffered_bytes=8 << 20) as live:
        yield live


@pytest.mark.parametrize(
    "offer",
    [
        {},
        {"client_max_window_bits": True},
        {"server_max_window_bits": 9, "client_max_window_bits": 12},
        {"server_no_context_takeover": True},
        {"client_no_context_takeover": True, "server_max_window_bits": 8},
    ],
    ids=lambda offer: ",".join(offer) or "nothing",
)
def test_websockets_as_the_client(live: Live, offer: dict[str, Any]) -> None:
    extensions = [deflate.ClientPerMessageDeflateFactory(**offer)]
    with client.connect(
        f"ws://127.0.0.1:{live.port}/", extensions=extensions, compression=None, open_timeout=TIMEOUT, max_size=None
    ) as connection:
        assert len(connection.protocol.extensions) == 1
        for message in [*ROWS, LONG, BLOB, "", b""]:
            connection.send(message)
            assert connection.recv(timeout=TIMEOUT) == message
        connection.send(FRAGMENTS)
        assert connection.recv(timeout=TIMEOUT) == "".join(FRAGMENTS)
    counters = live.server.counters()
    assert counters["inflated"] == len(ROWS) + 5
    # Those below the threshold, and the noise where no context is kept, go as they are.
    assert len(ROWS) // 2 < counters["deflated"] <= len(ROWS) + 5


@pytest.mark.skipif(NODE is None, reason="node is not installed")
@pytest.mark.skipif(
    not (HERE / "node_modules" / "ws").is_dir(),
    reason="the npm package ws is not installed (npm ci --prefix tests/peers/node)",
)
@pytest.mark.parametrize("offer", [True, {"threshold": 0, "serverMaxWindowBits": 10}, {"clientMaxWindowBits": 10}])
def test_ws_of_node_as_the_client(live: Live, tmp_path: Path, offer: Any) -> None:
    wanted = tmp_path / "wanted.json"
    wanted.write_text(
        json.dumps(
            {
                "text": LONG,
                "blob": base64.b64encode(BLOB).decode(),
                "fragments": ROWS,
                "code": CLOSE_CODE,
                "reason": CLOSE_REASON,
                "deflate": offer,
            }
        )
    )
    assert NODE is not None
    done = subprocess.run(
        [NODE, HERE / "exchange.cjs", f"ws://127.0.0.1:{live.port}/", wanted],
        capture_output=True, text=True, timeout=TIMEOUT_S,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    text, blob, joined = json.loads(done.stdout)["messages"]
    assert text == {"text": LONG}
    assert base64.b64decode(blob["blob"]) == BLOB
    assert joined == {"text": "".join(ROWS)}
    counters = live.server.counters()
    # Where it keeps no context, it goes by the first fragment, which is below its threshold.
    assert counters["inflated"] in (2, 3)
    assert counters["deflated"] >= 2
