"""Builds the CUDA driver that is none, of fake_cuda.c."""

import subprocess
from pathlib import Path

GPU = "0000:13:00.0"
HOST = {"FAKE_CUDA_HOST": "1"}
"""It does not say that its memory is a GPU's, so that shared memory takes it."""


def environ(folder):
    """With these variables a process finds it under the real one's name."""
    name = "libcuda.so.1"
    source = Path(__file__).with_suffix(".c")
    command = ["cc", "-Wall", "-Werror", "-shared", "-fPIC", f"-Wl,-soname,{name}"]
    subprocess.run([*command, "-o", folder / name, source], check=True)
    return {"LD_LIBRARY_PATH": str(folder)}
