"""A site with a login, and a dashboard with live data for those who are logged in.

Two servers of one host. The standard library's has the pages and takes the password; unlimitedws has the socket.
The login sets a signed cookie, and the browser sends it to the socket too: cookies know hosts, not ports.

    pip install 'unlimitedws[auth]'
    python login.py          http://localhost:8080/, as alice with the password wonderland, or bob, builder

Plain HTTP, so for this machine only. On a real site both stand behind HTTPS, the cookie is `Secure` and named
`__Host-session`, passwords are in a database, and attempts to guess them are counted.
"""

import argparse
import contextlib
import hashlib
import hmac
import json
import logging
import os
import secrets
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs

import unlimitedws
from unlimitedws.auth import CookieAuth, Origins, SignedCookie
from unlimitedws.request import Cookies

HERE = Path(__file__).resolve().parent
FILES = {
    "/dashboard.js": ("dashboard.js", "text/javascript"),
    "/style.css": ("style.css", "text/css"),
}
COOKIE = "session"

parser = argparse.ArgumentParser(description="A site with a login, and live data behind it.")
parser.add_argument("--http", type=int, default=8080, help="port of the pages (default: %(default)s)")
parser.add_argument("--ws", type=int, default=8000, help="port of the socket (default: %(default)s)")
parser.add_argument("--seconds", type=int, default=900, help="until a login expires (default: %(default)s)")
args = parser.parse_args()
logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s")

# --- who is who ---

# New in every run, so that a restart logs everybody out. A real one comes from a file that only the server reads.
cookie = SignedCookie(secrets.token_bytes(32), args.seconds)
salt = os.urandom(16)


def digest(password):
    return hashlib.scrypt(password.encode(), salt=salt, n=2**14, r=8, p=1)


passwords = {"alice": digest("wonderland"), "bob": digest("builder")}
nobody = digest(secrets.token_hex())
# Sessions that were logged out before their cookies expire: a signed cookie cannot be called back otherwise.
ended = {}


def knows(user, password):
    # As long for unknown users as for wrong passwords: else the time tells which names exist.
    return hmac.compare_digest(digest(password), passwords.get(user, nobody))


def who(value):
    """Verify a session cookie, for the pages and for the socket."""
    identity = cookie(value)
    return None if identity is None or identity.session in ended else identity


# --- the socket ---

server = unlimitedws.Server(f"127.0.0.1:{args.ws}")
online = set()
lock = threading.Lock()


@server.on_connect
def welcome(conn):
    with lock:
        online.add(conn)
    conn.send(json.dumps({"user": conn.user}))


@server.on_close
def goodbye(conn):
    with lock:
        online.discard(conn)
    logging.info("%s is gone: %s", conn.user, conn.close_cause.name)


def tick():
    """Send what is new to everybody, once a second."""
    while True:
        with lock:
            conns = list(online)
        names = sorted({conn.user for conn in conns})
        news = json.dumps({"online": names, "time": time.strftime("%H:%M:%S")})
        for conn in conns:
            # Gone, or too slow for this second.
            with contextlib.suppress(unlimitedws.ConnectionClosed, TimeoutError):
                conn.send(news)
        time.sleep(1)


# --- the pages ---


class Pages(BaseHTTPRequestHandler):
    timeout = 10

    def do_GET(self):
        if self.path == "/":
            self.answer(200, "text/html", self.page("dashboard.html" if self.identity() else "login.html"))
        elif self.path in FILES:
            name, kind = FILES[self.path]
            self.answer(200, kind, (HERE / name).read_bytes())
        else:
            self.answer(404, "text/plain", b"Not Found\n")

    def do_POST(self):
        # What a page of another site has our user send is not our user's will.
        if self.headers.get("Origin") not in origins:
            self.answer(403, "text/plain", b"Forbidden\n")
        elif self.path == "/login":
            self.log_in()
        elif self.path == "/logout":
            self.log_out()
        else:
            self.answer(404, "text/plain", b"Not Found\n")

    def log_in(self):
        length = self.headers.get("Content-Length", "")
        if not length.isascii() or not length.isdigit() or int(length) > 4096:
            self.answer(413, "text/plain", b"Content Too Large\n")
            return
        form = parse_qs(self.rfile.read(int(length)).decode("utf-8", "replace"))
        user, password = form.get("user", [""])[0], form.get("password", [""])[0]
        if not knows(user, password):
            self.answer(403, "text/html", self.page("login.html", "That was not right."))
            return
        # A new session for every login, whatever cookie came with it.
        self.go_home(f"{COOKIE}={cookie.issue(user)}; Max-Age={args.seconds}; {ATTRIBUTES}")

    def log_out(self):
        identity = self.identity()
        if identity is not None:
            now = time.time()
            for session in [session for session, expires in list(ended.items()) if expires < now]:
                ended.pop(session, None)
            ended[identity.session] = identity.expires
            # All tabs of this login, and none of the user's other ones.
            server.disconnect(session=identity.session, reason="logged out")
        self.go_home(f"{COOKIE}=; Max-Age=0; {ATTRIBUTES}")

    def identity(self):
        values = Cookies(self.headers.get_all("Cookie", [])).get_all(COOKIE)
        return who(values[0]) if len(values) == 1 else None

    def page(self, name, message=""):
        text = (HERE / name).read_text("utf-8")
        return text.replace("{message}", message).replace("{port}", str(server.local_addr.port)).encode()

    def go_home(self, set_cookie):
        self.answer(303, "text/plain", b"", ("Location", "/"), ("Set-Cookie", set_cookie))

    def answer(self, status, kind, body, *fields):
        self.send_response(status)
        for name, value in (*fields, *SAFETY, ("Content-Type", f"{kind}; charset=utf-8")):
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format, *args):
        """Say nothing: the interesting half is what unlimitedws logs."""


# HttpOnly: scripts need not read it. SameSite: other sites' pages do not send it along with their requests.
ATTRIBUTES = "Path=/; HttpOnly; SameSite=Lax"
SAFETY = (
    ("Cache-Control", "no-store"),
    ("X-Content-Type-Options", "nosniff"),
    (
        "Content-Security-Policy",
        f"default-src 'none'; script-src 'self'; style-src 'self'; form-action 'self'; frame-ancestors 'none'; "
        f"connect-src ws://localhost:{server.local_addr.port} ws://127.0.0.1:{server.local_addr.port}",
    ),
)

pages = ThreadingHTTPServer(("127.0.0.1", args.http), Pages)
origins = [f"http://{host}:{pages.server_port}" for host in ("localhost", "127.0.0.1")]
# The pages have another port, and so another origin, than the socket; the socket itself has no pages.
server.auth = CookieAuth(COOKIE, who, origins=Origins(origins, same_origin=False))

threading.Thread(target=pages.serve_forever, daemon=True).start()
threading.Thread(target=tick, daemon=True).start()
server.run(ready=lambda: print(f"http://localhost:{pages.server_port}/", flush=True))
pages.shutdown()
