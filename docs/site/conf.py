"""Sphinx: how the site of `make docs` is made of the pages as they lie in the repository.

The source directory is the repository, so a relative link means the same here and where the repository is browsed.
The navigation is docs/README.md, which is a page like the others: its headings are the captions, its lists the entries.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.util
import re
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from docutils import nodes
from pygments.lexers.special import TextLexer
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.domains.python import ObjectEntry, PythonDomain
from sphinx.environment import BuildEnvironment
from sphinx.ext.napoleon import Config, GoogleDocstring

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "src"
sys.path.insert(0, str(SOURCE))


class StubFinder(importlib.abc.MetaPathFinder):
    """Imports the engine's modules from their stubs: there their types and documentation are, and nothing is built."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        package, _, module = name.partition(".")
        stub = SOURCE / "_uws" / f"{module}.pyi"
        if package != "_uws" or not stub.exists():
            return None
        loader = importlib.machinery.SourceFileLoader(name, str(stub))
        return importlib.util.spec_from_file_location(name, stub, loader=loader)


sys.meta_path.insert(0, StubFinder())
# What is compiled from a stub is nobody else's to find.
sys.dont_write_bytecode = True

project = "unlimitedws"
author = "the authors of unlimitedws"
project_copyright = author
release = version = re.search(r'^version = "(.+)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)[1]

extensions = ["myst_parser", "sphinx.ext.autodoc"]
root_doc = "README"
include_patterns = [
    *("*.md", "docs/*.md", "docs/reference/*.rst", "examples/*.md"),
    *("bench/*.md", "bench/results/*.md", "tests/fuzz/*.md"),
]

# Headings have the anchors that GitHub gives them.
myst_heading_anchors = 4

# A name in backticks is a link where it is one of ours, and code otherwise.
default_role = "py:obj"
add_module_names = False
maximum_signature_line_length = 110
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_default_options = {"members": True}

html_theme = "furo"
html_title = f"unlimitedws {version}"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sphinx = False
html_show_copyright = False
pygments_style = "friendly"
pygments_dark_style = "monokai"


class Names(PythonDomain):
    """Python's names, of which those of the page's own module win, then the package's. One that still could be two
    things is a link to neither."""

    def find_obj(
        self,
        env: BuildEnvironment,
        modname: str | None,
        classname: str | None,
        name: str,
        type: str | None,
        searchmode: int = 0,
    ) -> list[tuple[str, ObjectEntry]]:
        found = super().find_obj(env, modname, classname, name, type, searchmode)
        for module in (modname, "unlimitedws"):
            own = [match for match in found if match[0] == f"{module}.{name.lstrip('.')}"]
            if own:
                return own
        if not found and modname != "unlimitedws":
            found = super().find_obj(env, "unlimitedws", None, name, type)
        if not found and "_" in name:
            # `on_close` in the text of another class. Without an underscore it may be any word of a sentence.
            found = super().find_obj(env, modname, classname, name, type, 1)
        return found if len(found) == 1 else []


# What Args and Raises say is shown as a list, without fields for types: those are in the signature.
GOOGLE = Config(napoleon_use_ivar=True, napoleon_use_param=False, napoleon_use_rtype=False)


def read_docstring(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Read a docstring of Google's style; that of a property as that of a method.

    Napoleon's own handler takes what stands before a property's first colon for a type.
    """
    # The pages that docstrings point to, by their paths in the repository.
    linked = [re.sub(r"\bdocs/(\w+)\.md\b", r":doc:`/docs/\1`", line) for line in lines]
    kind = "method" if what in ("attribute", "data", "property") else what
    read = GoogleDocstring(linked, GOOGLE, app, kind, name, obj, options).lines()
    # Of two attributes that are described together Sphinx would take the first for the type of the second.
    lines[:] = [re.sub(r"^(:ivar \w+), (\w+:)", r"\1,\2", line) for line in read]


def skip_member(app: Sphinx, what: str, name: str, obj: Any, skip: bool, options: Any) -> bool | None:
    """Leave out what a NamedTuple says of its fields by itself; the class does."""
    doc = getattr(obj, "__doc__", None) or ""
    return True if doc.startswith("Alias for field number") else None


def add_navigation(app: Sphinx, docname: str, content: list[str]) -> None:
    """Give the first page the trees that docs/README.md describes."""
    if docname != root_doc:
        return
    overview = (ROOT / "docs" / "README.md").read_text("utf-8")
    trees = ["```{toctree}", ":hidden:", "", "Documentation <docs/README>", "```", ""]
    for section in re.split(r"^## ", overview, flags=re.MULTILINE)[1:]:
        caption = section.splitlines()[0]
        links = re.findall(r"^- \[(.+?)\]\((.+?)\)", section, re.MULTILINE)
        # Relative to docs/ there, to the root here.
        entries = [f"{title} <{_from_root(path)}>" for title, path in links]
        trees += ["```{toctree}", ":hidden:", f":caption: {caption}", "", *entries, "```", ""]
    content[0] += "\n\n" + "\n".join(trees)


def _from_root(path: str) -> str:
    return str((ROOT / "docs" / path).resolve().relative_to(ROOT).with_suffix(""))


# The sources that are shown where a page points to them, and how.
SOURCES = {".py": "python", ".html": "html", ".js": "javascript"}
# Those that one does, by their path in the repository.
_shown: set[str] = set()


def link_sources(app: Sphinx, doctree: nodes.document) -> None:
    """Let a link to a source lead to a page that shows it. Elsewhere the file would be downloaded."""
    docname = app.env.docname
    for link in list(doctree.findall(addnodes.download_reference)):
        name, _ = app.env.relfn2path(link["reftarget"], docname)
        if Path(name).suffix in SOURCES:
            _shown.add(name)
            uri = app.builder.get_relative_uri(docname, name)
            link.replace_self(nodes.reference("", "", *(text for inner in link for text in inner), refuri=uri))


def show_sources(app: Sphinx) -> Iterator[tuple[str, dict[str, Any], str]]:
    """Make the pages of the sources that are pointed to."""
    for name in sorted(_shown):
        text = (ROOT / name).read_text("utf-8")
        code = app.builder.highlighter.highlight_block(text, SOURCES[Path(name).suffix])
        yield name, {"title": name, "body": f"<h1>{name}</h1>{code}", "parents": []}, "page.html"


def copy_readmes(app: Sphinx, failure: Exception | None) -> None:
    """Let a directory's README be its index too, as it is where the repository is browsed."""
    for page in Path(app.outdir).rglob("README.html"):
        shutil.copyfile(page, page.with_name("index.html"))


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_domain(Names, override=True)
    # Pygments does not know it; the name is for those who read the page elsewhere.
    app.add_lexer("haproxy", TextLexer)
    app.connect("autodoc-process-docstring", read_docstring)
    app.connect("autodoc-skip-member", skip_member)
    app.connect("source-read", add_navigation)
    # Before Sphinx collects what is to be downloaded.
    app.connect("doctree-read", link_sources, priority=400)
    app.connect("html-collect-pages", show_sources)
    app.connect("build-finished", copy_readmes)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
