"""Write the C source of pgctl._ffi._engine from the engine's public headers.

The headers are the only declarations. Besides their guards, includes and C++ blocks they may hold
no preprocessor line but `#define NAME integer`; anything else is an error here.
"""

import re
import sys
from pathlib import Path

from cffi import FFI

BLOCK_COMMENT = re.compile(r"/\*.*?\*/", re.DOTALL)
CPLUSPLUS = re.compile(r"^#ifdef __cplusplus\n.*?^#endif\n", re.DOTALL | re.MULTILINE)
GUARD = re.compile(r"\s*#ifndef (\w+)\n#define \1\n(.*)^#endif\s*\Z", re.DOTALL | re.MULTILINE)
INTEGER = re.compile(r"#define \w+ (0x[0-9a-fA-F]+|\d+)[uUlL]*")


def declarations(header: Path) -> str:
    """What cffi's cdef() accepts of one header."""
    text = BLOCK_COMMENT.sub("", header.read_text())
    text = re.sub(r"[ \t]+$", "", text, flags=re.MULTILINE)
    guarded = GUARD.fullmatch(text)
    if guarded is None:
        raise SystemExit(f"{header}: no include guard around the whole file")
    lines = []
    for line in CPLUSPLUS.sub("", guarded[2]).splitlines():
        if line.startswith("#include "):
            continue
        if line.startswith("#") and not INTEGER.fullmatch(line):
            raise SystemExit(f"{header}: the bindings cannot use '{line}'")
        lines.append(line)
    return "\n".join(lines)


def main(headers: list[Path], output: Path) -> None:
    ffi = FFI()
    # engine.h first: the others use its types.
    for header in sorted(headers, key=lambda path: path.name != "engine.h"):
        ffi.cdef(declarations(header))
    includes = "".join(f"#include <pgctl/{header.name}>\n" for header in headers)
    ffi.set_source("pgctl._ffi._engine", includes)
    ffi.emit_c_code(str(output))


if __name__ == "__main__":
    *sources, target = map(Path, sys.argv[1:])
    main(sources, target)
