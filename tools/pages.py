"""`make docs`: builds the site in build/site, and follows every link in it that leads nowhere else.

Fails where Sphinx warns, and where a link, a picture or an anchor is missing. What is elsewhere is not asked for: that
a machine has no network is no fault of the pages.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

ROOT = Path(__file__).resolve().parents[1]
SITE = ROOT / "build" / "site"


class Page(HTMLParser):
    """One page: its anchors, and what it refers to."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.targets: list[str] = []
        self.feed(path.read_text("utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if value is None:
                continue
            if name == "id" or (tag == "a" and name == "name"):
                self.anchors.add(value)
            elif name in ("href", "src"):
                self.targets.append(value)


def dead_links(site: Path) -> list[str]:
    """Return a line for each reference within a directory of HTML that leads to no file, or to no anchor of one."""
    # What is to be downloaded is a copy of a file, wherever that has its links.
    found = (path for path in sorted(site.rglob("*.html")) if "_downloads" not in path.parts)
    pages = {path: Page(path) for path in found}
    dead = []
    for path, page in pages.items():
        for target in dict.fromkeys(page.targets):
            parts = urlsplit(target)
            if parts.scheme or parts.netloc:
                continue
            there = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            anchor = unquote(parts.fragment)
            if there.is_dir():
                there /= "index.html"
            if not there.is_file():
                dead.append(f"{path.relative_to(site)}: {target}: no such file")
            elif anchor and there in pages and anchor not in pages[there].anchors:
                dead.append(f"{path.relative_to(site)}: {target}: no such anchor")
    return dead


def main() -> int:
    # Nothing of an earlier build is to make a link look alive.
    shutil.rmtree(SITE, ignore_errors=True)
    command = [sys.executable, "-m", "sphinx", "--builder", "html", "--conf-dir", "docs/site"]
    # Anew each time: only what is read can warn. A warning fails the build, but not before all have been seen.
    command += ["--doctree-dir", "build/doctrees", "--fresh-env", "--quiet", "--fail-on-warning", "--keep-going"]
    status = subprocess.run([*command, ".", str(SITE)], cwd=ROOT, check=False).returncode
    if status:
        return status
    dead = dead_links(SITE.resolve())
    for line in dead:
        print(line, file=sys.stderr)
    pages = sum(1 for _ in SITE.rglob("*.html"))
    print(f"{pages} pages, {len(dead)} dead links: {SITE / 'index.html'}")
    return 1 if dead else 0


if __name__ == "__main__":
    sys.exit(main())
