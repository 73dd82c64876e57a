"""The pages that people read: every link leads somewhere, every page is in the navigation, every name in the reference.

Of the pages as they lie in the repository; what `make docs` makes of them it checks itself.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from pages import dead_links

import unlimitedws

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(path for folder in (".", "docs", "examples", "bench") for path in (ROOT / folder).glob("*.md"))


def prose(text: str) -> str:
    """A page without its code, where nothing is a link or a heading."""
    text = re.sub(r"^(```+).*?^\1$", "", text, flags=re.MULTILINE | re.DOTALL)
    return re.sub(r"(`+)(?!`).+?(?<!`)\1(?!`)", lambda code: re.sub(r"[\[\]()]", "", code[0]), text)


def anchors(text: str) -> set[str]:
    """The anchors that GitHub gives to the headings of a page."""
    found: list[str] = []
    for heading in re.findall(r"^#{1,6} +(.+?) *#*$", prose(text), re.MULTILINE):
        plain = re.sub(r"\[(.*?)\]\(.*?\)", r"\1", heading).lower()
        anchor = re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")
        again = found.count(anchor)
        found.append(anchor)
        if again:
            found.append(f"{anchor}-{again}")
    return set(found) | set(re.findall(r'<a (?:id|name)="(.+?)"', text))


def links(text: str) -> Iterator[str]:
    yield from re.findall(r"\]\(<?([^)\s>]+)>?(?: +\"[^\"]*\")?\)", prose(text))
    yield from re.findall(r"<(?:img|source|a)\b[^>]*?(?:src|srcset|href)=\"([^\"]+)\"", prose(text))


def dead(page: Path) -> list[str]:
    """The links of a page that lead to no file of the repository, or to no heading of one."""
    missing = []
    for target in links(page.read_text("utf-8")):
        parts = urlsplit(target)
        if parts.scheme:
            continue
        there = (page.parent / unquote(parts.path)).resolve() if parts.path else page
        if not there.exists() or not there.is_relative_to(ROOT):
            missing.append(f"{target}: no such file")
        elif parts.fragment and (there.suffix != ".md" or parts.fragment not in anchors(there.read_text("utf-8"))):
            missing.append(f"{target}: no such heading")
    return missing


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page: Path) -> None:
    assert dead(page) == []


def test_dead_links_and_anchors_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    (tmp_path / "there.md").write_text("# One `two`, three!\n## Same\n## Same\n```\n# no heading\n```\n")
    page = tmp_path / "page.md"
    page.write_text(
        "[a](there.md) [b](there.md#one-two-three) [c](there.md#same-1) [d](https://example.org/x) `[e](gone)`\n"
        '[f](gone.md) [g](there.md#gone) [h](#gone) [i](there.md#no-heading) <img src="gone.svg">\n'
    )
    assert [line.partition(":")[0] for line in dead(page)] == [
        "gone.md",
        "there.md#gone",
        "#gone",
        "there.md#no-heading",
        "gone.svg",
    ]


def test_every_page_is_in_the_navigation_once() -> None:
    listed = re.findall(r"^- \[.+?\]\((.+?)\)", (DOCS / "README.md").read_text("utf-8"), re.MULTILINE)
    pages = {*DOCS.glob("*.md"), *(DOCS / "reference").glob("*.rst"), *(ROOT / "examples").glob("*.md")}
    pages |= {path for path in ROOT.glob("*.md") if path.name != "README.md"}
    pages |= {path for room in ("bench", "bench/results", "tests/fuzz") for path in (ROOT / room).glob("*.md")}
    assert sorted((DOCS / path).resolve() for path in listed) == sorted(pages - {DOCS / "README.md"})


def test_every_public_name_is_in_the_reference() -> None:
    pages = [path.read_text("utf-8") for path in (DOCS / "reference").glob("*.rst")]
    modules = {
        name for page in pages for name in re.findall(r"^\.\. automodule:: unlimitedws\.(\w+)$", page, re.MULTILINE)
    }
    names = {
        name
        for page in pages
        if ".. currentmodule:: unlimitedws\n" in page
        for name in re.findall(r"^\.\. auto(?:class|exception|function):: (\w+)(?:\(.*\))?$", page, re.MULTILINE)
    }
    assert names == set(unlimitedws.__all__) - {"__version__", "ws", "wsutil"}
    assert modules == {"aio", "auth", "loadgen", "metrics", "ws", "wsutil"}


def test_the_picture_of_the_floors_shows_what_the_table_says() -> None:
    table = re.findall(r"^\| (F[1-6]) \| (.+?) \|", (DOCS / "architecture.md").read_text("utf-8"), re.MULTILINE)
    server = table[:6]
    assert [floor for floor, _ in server] == ["F1", "F2", "F3", "F4", "F5", "F6"]
    picture = (DOCS / "images" / "floors.svg").read_text("utf-8")
    drawn = {}
    for group in re.findall(r"<g .*?</g>", picture, re.DOTALL):
        floor = re.search(r">(F[1-6])<", group)
        if floor:
            drawn[floor[1]] = {name for line in re.findall(r'x="290".*?>(.+?)<', group) for name in line.split(" · ")}
    assert drawn == {floor: set(re.findall(r"`(\w+)`", names)) for floor, names in server}


def test_every_example_is_in_the_readme() -> None:
    folder = ROOT / "examples"
    listed = {(folder / target).resolve() for target in links((folder / "README.md").read_text("utf-8"))}
    assert {path.resolve() for path in folder.rglob("*.py")} <= listed
    assert {path.resolve() for path in folder.rglob("*.html")} - listed <= {folder / "login" / "login.html"}


def test_dead_links_of_the_site_are_found(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "index.html").write_text('<p id="here"><a href="../page.html#top">up</a>')
    (tmp_path / "page.html").write_text(
        '<a id="top" href="sub/#here"></a><a href="sub/index.html#gone"></a><img src="gone.svg">'
        '<a href="https://example.org/gone"></a><a href="#gone"></a>'
    )
    assert dead_links(tmp_path) == [
        "page.html: sub/index.html#gone: no such anchor",
        "page.html: gone.svg: no such file",
        "page.html: #gone: no such anchor",
    ]
