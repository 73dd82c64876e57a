"""Builds the engine: one extension module per .pyx of src/_uws.

UWS_SHIMS=1   also builds tests/uws_shims, the windows through which the tests reach the engine's floors.
UWS_DEBUG=1   keeps the engine's assertions and debug counters.
UWS_WERROR=1  makes compiler warnings errors. So it is where the shims are built, unless this is 0: what a newer
               compiler has to say is for us, and not for who installs.
UWS_MODULES=...  these modules only, such as "_uws.slab uws_shims.slab_shim": see tools/fuzz.py.
UWS_SANITIZE=thread  with ThreadSanitizer, or address,undefined; the interpreter has to be started with its library: see
               tools/tsan.py and tools/asan.py.
UWS_ZLIB=...  zlib, zlib-ng, or auto (zlib-ng where its header and its library are found, zlib otherwise).
UWS_JOBS=4    how many modules are compiled at once, instead of as many as there are processors for us.
"""

import os
import shlex
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).parent
DEBUG = os.environ.get("UWS_DEBUG") == "1"
SHIMS = os.environ.get("UWS_SHIMS") == "1"
SANITIZE = os.environ.get("UWS_SANITIZE", "")
MODULES = os.environ.get("UWS_MODULES", "").split()
# Who packs the sources, or asks for a name and a version, needs no C.
BUILDS = not {"sdist", "egg_info", "dist_info"} & set(sys.argv) or bool({"build_ext", "bdist_wheel"} & set(sys.argv))
JOBS = int(os.environ.get("UWS_JOBS") or len(os.sched_getaffinity(0)))

CFLAGS = [
    "-std=gnu11",
    "-O3",
    "-fvisibility=hidden",
    "-fno-semantic-interposition",
    "-fstack-protector-strong",
    "-Wall",
    "-Wextra",
    # What Cython's own C, not ours, would be warned of.
    "-Wno-unused-parameter",
    "-Wno-unused-function",
    "-Wno-missing-field-initializers",
    "-Wno-cast-function-type",
    "-Wno-sign-compare",
    # Who waits for another thread to have done what it asks has the asking on its stack; gcc 16 does not see the wait.
    "-Wno-dangling-pointer",
    "-Wno-unknown-warning-option",
]
LDFLAGS = ["-Wl,-z,relro,-z,now", "-Wl,--as-needed"]
MACROS = [("_GNU_SOURCE", "1"), ("UWS_DEBUG", "1" if DEBUG else "0")]

if os.environ.get("UWS_WERROR", "1" if SHIMS else "0") == "1":
    CFLAGS.append("-Werror")
if SANITIZE:
    CFLAGS += [f"-fsanitize={SANITIZE}", "-g", "-O1", "-fno-omit-frame-pointer"]
    LDFLAGS.append(f"-fsanitize={SANITIZE}")
    if "undefined" in SANITIZE:
        # -fwrapv, with which CPython is built, would define just what is looked for.
        CFLAGS.append("-fno-wrapv")
else:
    CFLAGS += ["-U_FORTIFY_SOURCE", "-D_FORTIFY_SOURCE=2"]
    if DEBUG:
        CFLAGS.append("-g")

DIRECTIVES = {
    "language_level": 3,
    "boundscheck": False,
    "wraparound": False,
    "cdivision": True,
    "initializedcheck": False,
    "embedsignature": True,
    "embedsignature.format": "python",
    # What holds without a GIL, and why: docs/architecture.md, "Without a GIL".
    "freethreading_compatible": True,
}


def extension(module: str, source: Path) -> Extension:
    headers = [*(ROOT / "src/_uws").glob("*.pxd"), *(ROOT / "src/_uws/c").glob("*.h")]
    return Extension(
        module,
        [str(source.relative_to(ROOT))],
        include_dirs=["src/_uws/c", "tests/simulation"] if module.startswith("uws_shims") else ["src/_uws/c"],
        depends=[str(header.relative_to(ROOT)) for header in headers],
        define_macros=list(MACROS),
        extra_compile_args=CFLAGS,
        extra_link_args=LDFLAGS,
    )


def links(library: str, program: str) -> bool:
    """Whether a program of C compiles and links with a library, with the environment's flags."""
    compiler = shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")
    flags = [shlex.split(os.environ.get(name, "")) for name in ("CPPFLAGS", "CFLAGS", "LDFLAGS")]
    with tempfile.TemporaryDirectory() as room:
        source = Path(room, "probe.c")
        source.write_text(program)
        command = [*compiler, *flags[0], *flags[1], str(source), "-o", f"{room}/probe", *flags[2], f"-l{library}"]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0


def choose_zlib(wanted: str) -> tuple[str, list[tuple[str, str]]]:
    """(library, macros) of the zlib that the engine compresses with."""
    if wanted not in ("auto", "zlib", "zlib-ng"):
        raise SystemExit(f"UWS_ZLIB={wanted}: zlib, zlib-ng or auto")
    if wanted != "zlib":
        if links("z-ng", "#include <zlib-ng.h>\nint main(void) { return zng_inflateEnd(0) == Z_OK; }\n"):
            return "z-ng", [("UWS_ZLIB_NG", "1")]
        if wanted == "zlib-ng":
            raise SystemExit("UWS_ZLIB=zlib-ng: zlib-ng.h and libz-ng are not here (Debian 13: libz-ng-dev)")
    if links("z", "#include <zlib.h>\nint main(void) { return inflateEnd(0) == Z_OK; }\n"):
        return "z", [("UWS_ZLIB_NG", "0")]
    raise SystemExit(
        "zlib's header or library is missing. Install zlib1g-dev (Debian, Ubuntu), zlib-devel (Fedora, openSUSE), "
        "zlib-dev (Alpine) or zlib (Arch)."
    )


class BuildExt(build_ext):
    """Looks for zlib when the engine is built, not when its metadata are asked for, and compiles on all processors."""

    def finalize_options(self) -> None:
        super().finalize_options()
        # pip has no way to say it, and one module after the other takes minutes.
        self.parallel = self.parallel or JOBS

    def build_extensions(self) -> None:
        library, macros = choose_zlib(os.environ.get("UWS_ZLIB", "auto"))
        for ext in self.extensions:
            if ext.name in ("_uws.deflate", "uws_shims.simdeflate_shim"):
                ext.libraries.append(library)
                ext.define_macros += macros
        super().build_extensions()


extensions = [extension(f"_uws.{p.stem}", p) for p in sorted((ROOT / "src/_uws").glob("*.pyx"))]
package_dir = {"": "src"}
packages = ["_uws", "unlimitedws"]
if SHIMS:
    package_dir["uws_shims"] = "tests/uws_shims"
    packages.append("uws_shims")
    shims = sorted((ROOT / "tests/uws_shims").glob("*.pyx"))
    extensions += [extension(f"uws_shims.{p.stem}", p) for p in shims]
if MODULES:
    extensions = [ext for ext in extensions if ext.name in MODULES]


def in_c() -> list[Extension]:
    """The extensions with their C, which is written anew where its sources are newer."""
    from Cython.Build import cythonize

    return cythonize(
        extensions,
        include_path=["src"],
        # pip brings a Cython of its own, whose files are newer than our C: not to be what is built in place.
        build_dir="build/cython" if "--inplace" in sys.argv else "build/packaged",
        compiler_directives=DIRECTIVES,
        # A sanitizer's reports name the lines that we wrote.
        emit_linenums=bool(SANITIZE),
        annotate=os.environ.get("UWS_ANNOTATE") == "1",
        # Processes, not threads, which not every way to start this file survives: only if asked for.
        nthreads=JOBS if "UWS_JOBS" in os.environ else 1,
    )


# From Python 3.14 on the processes that Cython starts read this file, too.
if __name__ == "__main__":
    setup(
        package_dir=package_dir,
        packages=packages,
        cmdclass={"build_ext": BuildExt},
        ext_modules=in_c() if BUILDS else extensions,
    )
