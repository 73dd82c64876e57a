"""Builds the engine: one extension module per .pyx of src/_uws.

UWS_SHIMS=1   also builds tests/uws_shims, the windows through which the tests reach the engine's floors.
UWS_DEBUG=1   keeps the engine's assertions and debug counters.
UWS_WERROR=0  lets compiler warnings pass: for compilers newer than those we build with.
"""

import os
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup

ROOT = Path(__file__).parent
DEBUG = os.environ.get("UWS_DEBUG") == "1"
SHIMS = os.environ.get("UWS_SHIMS") == "1"

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
]
LDFLAGS = ["-Wl,-z,relro,-z,now", "-Wl,--as-needed"]
MACROS = [("_GNU_SOURCE", "1"), ("UWS_DEBUG", "1" if DEBUG else "0")]

if os.environ.get("UWS_WERROR", "1") == "1":
    CFLAGS.append("-Werror")
if DEBUG:
    CFLAGS.append("-g")
else:
    CFLAGS += ["-U_FORTIFY_SOURCE", "-D_FORTIFY_SOURCE=2"]

DIRECTIVES = {
    "language_level": 3,
    "boundscheck": False,
    "wraparound": False,
    "cdivision": True,
    "initializedcheck": False,
    "embedsignature": True,
    "embedsignature.format": "python",
}


def extension(module: str, source: Path) -> Extension:
    headers = [*(ROOT / "src/_uws").glob("*.pxd"), *(ROOT / "src/_uws/c").glob("*.h")]
    return Extension(
        module,
        [str(source.relative_to(ROOT))],
        include_dirs=["src/_uws/c"],
        depends=[str(header.relative_to(ROOT)) for header in headers],
        define_macros=MACROS,
        extra_compile_args=CFLAGS,
        extra_link_args=LDFLAGS,
    )


extensions = [extension(f"_uws.{p.stem}", p) for p in sorted((ROOT / "src/_uws").glob("*.pyx"))]
package_dir = {"": "src"}
packages = ["_uws", "unlimitedws"]
if SHIMS:
    package_dir["uws_shims"] = "tests/uws_shims"
    packages.append("uws_shims")
    shims = sorted((ROOT / "tests/uws_shims").glob("*.pyx"))
    extensions += [extension(f"uws_shims.{p.stem}", p) for p in shims]

setup(
    package_dir=package_dir,
    packages=packages,
    ext_modules=cythonize(
        extensions,
        include_path=["src"],
        build_dir="build/cython",
        compiler_directives=DIRECTIVES,
        annotate=os.environ.get("UWS_ANNOTATE") == "1",
        nthreads=int(os.environ.get("UWS_JOBS", "1")),
    ),
)
