"""The C engine: `lib` has the functions of its headers, `ffi` makes and reads their arguments."""

from importlib.metadata import version

from pgctl._ffi._engine import ffi, lib

__all__ = ["ffi", "lib"]

if (built := ffi.string(lib.pg_version()).decode()) != (package := version("pgctl")):
    raise ImportError(f"pgctl {package} found the engine of pgctl {built}: install pgctl again")
