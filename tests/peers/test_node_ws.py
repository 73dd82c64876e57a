"""Node's `ws` as the client: the one most of the world's servers talk to."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
from pathlib import Path

import pytest
from fixtures import EchoServer

from .exchange import BLOB, CLOSE_CODE, CLOSE_REASON, FRAGMENTS, TEXT

HERE = Path(__file__).resolve().parent / "node"
NODE = shutil.which("node")
TIMEOUT_S = 60.0

pytestmark = [
    pytest.mark.skipif(NODE is None, reason="node is not installed"),
    pytest.mark.skipif(
        not (HERE / "node_modules" / "ws").is_dir(),
        reason="the npm package ws is not installed (npm ci --prefix tests/peers/node)",
    ),
]


def test_exchange_and_clean_close(echo_server: EchoServer, tmp_path: Path) -> None:
    wanted = tmp_path / "wanted.json"
    wanted.write_text(
        json.dumps(
            {
                "text": TEXT,
                "blob": base64.b64encode(BLOB).decode(),
                "fragments": FRAGMENTS,
                "code": CLOSE_CODE,
                "reason": CLOSE_REASON,
            }
        )
    )
    assert NODE is not None
    done = subprocess.run(
        [NODE, HERE / "exchange.cjs", echo_server.url, wanted],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )
    assert (done.returncode, done.stderr) == (0, "")
    seen = json.loads(done.stdout)
    text, blob, joined = seen["messages"]
    assert text == {"text": TEXT}
    assert base64.b64decode(blob["blob"]) == BLOB
    assert joined == {"text": "".join(FRAGMENTS)}
    assert seen["pong"] == "are you there"
    assert seen["code"] == CLOSE_CODE
    assert echo_server.wait_closed() == (("127.0.0.1", seen["port"]), CLOSE_CODE, CLOSE_REASON)
