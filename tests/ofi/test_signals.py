"""Signals are the application's, whatever providers of libfabric do with them."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pgctl.engine import transports

PROGRAM = """
import os, re, signal, sys
from pathlib import Path

def caught():
    return re.search(r"SigCgt:\\s*(\\w+)", Path("/proc/self/status").read_text())[1]

before = caught()
from pgctl.engine import GroupConfig, NicConfig, TransferEngine, transports

transports()
for provider in "tcp", "shm":
    nic = NicConfig(transport="ofi", options="provider=" + provider)
    engines = [TransferEngine([GroupConfig(nics=[nic], progress="inline")]) for _ in range(2)]
    op = engines[0].submit_barrier(1, [engines[0].add_peer(engines[1].main_address())])
    while not op.done():
        for engine in engines:
            engine.progress()
    assert caught() == before, (provider, before, caught())
try:
    os.kill(os.getpid(), signal.SIGINT)
except KeyboardInterrupt:
    print("interrupted")
os.kill(os.getpid(), signal.SIGTERM)
"""


def test_signals_stay_with_the_application(tmp_path):
    if reason := {each.name: each.reason for each in transports()}["ofi"]:
        pytest.skip(f"ofi: {reason}")
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    words = [sys.executable, str(Path(program))]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout, done.returncode) == ("interrupted\n", -signal.SIGTERM), done.stderr
