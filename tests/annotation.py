"""The engine's source as tests read it: its files, lines and functions, and what of it Cython says calls Python."""

from __future__ import annotations

import ast
import io
import re
import subprocess
import sys
import tokenize
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ENGINE = ROOT / "src" / "_uws"
FILES = sorted(
    path for path in ENGINE.iterdir() if path.suffix in (".pyx", ".pxd") and path.stem != "__init__"
)

Annotated = dict[str, list[tuple[int, int, str]]]
"""(line, score, text) of every line that Cython marks as calling Python, by file name."""


def tokens(source: str) -> list[tokenize.TokenInfo]:
    """Cython's tokens are Python's as far as words, strings and comments go."""
    return list(tokenize.generate_tokens(io.StringIO(source).readline))


def logical_lines(source: str) -> list[tuple[int, int, list[tokenize.TokenInfo]]]:
    """(line, column, tokens) of each logical line, comments and strings left out."""
    skip = {
        tokenize.COMMENT,
        tokenize.NL,
        tokenize.INDENT,
        tokenize.DEDENT,
        tokenize.STRING,
        tokenize.ENDMARKER,
    }
    lines, current = [], []
    for token in tokens(source):
        if token.type == tokenize.NEWLINE:
            if current:
                lines.append((*current[0].start, current))
            current = []
        elif token.type not in skip:
            current.append(token)
    return lines


def functions_of(source: str) -> dict[str, tuple[str, range]]:
    """(signature, lines) of every function that is defined, by name; a method's is ``Class.name``."""
    found: dict[str, tuple[str, range]] = {}
    count = len(source.splitlines())
    logical = logical_lines(source)
    owner = ""
    for at, (line, column, words) in enumerate(logical):
        text = [word.string for word in words]
        if column == 0:
            owner = f"{text[text.index('class') + 1]}." if "class" in text else ""
        if text[0] not in ("cdef", "def", "cpdef") or "(" not in text or text[-1] != ":" or "class" in text:
            continue
        name = owner + text[text.index("(") - 1]
        # Up to the next line that is not of its body; blank lines between belong to nobody.
        end = next((other for other, indent, _ in logical[at + 1 :] if indent <= column), count + 1)
        found[name] = (" ".join(text), range(line, end))
    return found


def inline_functions(path: Path) -> str:
    """The inline functions of a .pxd, under names of their own, in a module that sees all that they see."""
    source = path.read_text()
    lines = source.splitlines()
    out = [f"from _uws.{path.stem} cimport *"]
    for line, column, words in logical_lines(source):
        if "cimport" in [word.string for word in words] and column == 0:
            out.extend(lines[line - 1 : words[-1].end[0]])
    heads = [i for i, line in enumerate(lines) if line.startswith("cdef inline ")]
    for head in heads:
        end = next((i for i in range(head + 1, len(lines)) if re.match(r"[^\s)]", lines[i])), len(lines))
        out.append(re.sub(r"(\w+)\(", r"probe_\1(", lines[head], count=1))
        out.extend(lines[head + 1 : end])
    return "\n".join(out) + "\n" if heads else ""


def annotate(room: Path) -> tuple[Annotated, dict[str, str]]:
    """Have Cython annotate the engine. Returns the lines that call Python, and what was compiled, file by file.

    For a .pxd that is a module made of its inline functions. The measure itself is measured: "control" has a line that
    calls Python.
    """
    setup = ast.parse((ROOT / "setup.py").read_text())
    directives = next(
        ast.literal_eval(node.value)
        for node in setup.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "DIRECTIVES"
    )
    sources = {path.name: path for path in FILES if path.suffix == ".pyx"}
    for path in FILES:
        if path.suffix == ".pxd" and (text := inline_functions(path)):
            sources[path.name] = room / f"probe_{path.stem}.pyx"
            sources[path.name].write_text(text)
    sources["control"] = room / "control.pyx"
    sources["control"].write_text("# A line.\ncdef f(x):\n    return x + 1\n")
    modules = [
        (f"_uws.{path.stem}" if path.parent == ENGINE else path.stem, str(path)) for path in sources.values()
    ]
    # A process of its own: the compiler keeps what it has read, and writes to stdout as it likes.
    script = f"""
from Cython.Build import cythonize
from setuptools import Extension
cythonize(
    [Extension(name, [path]) for name, path in {modules!r}],
    include_path=[{str(ROOT / "src")!r}], build_dir={str(room / "c")!r}, compiler_directives={directives!r},
    annotate=True, force=True, quiet=True,
)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=room, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    pages = {path.stem: path for path in room.rglob("*.html")}
    out: Annotated = {}
    for title, path in sources.items():
        scores = re.findall(
            r'<pre class="cython line score-(\d+)"[^>]*>.*?<span class="">(\d+)</span>: (.*?)</pre>',
            pages[path.stem].read_text(),
        )
        assert len(scores) == len(path.read_text().splitlines()), f"{title}: the annotation reads otherwise"
        # The making of the module object is put down to its first line, which is a comment or a cimport.
        out[title] = [(int(line), int(score), text) for score, line, text in scores[1:] if score != "0"]
    return out, {title: path.read_text() for title, path in sources.items()}
