"""What a device, or the memory that may be locked, is too small for."""

import errno
import re
import subprocess
import sys
from pathlib import Path

import pytest
from meeting import IMM
from nics import nic

from pgctl.engine import PgError, TransferEngine

pytestmark = pytest.mark.rdma

SMALL = {"max_ops": 64, "max_events": 64, "max_peers": 4, "max_regions": 8, "max_unclaimed": 64}
"""An engine of a crowd."""


def locking_at_most(kib, script):
    """What a process says that may lock no more memory than this."""
    without = ["setpriv", "--bounding-set", "-ipc_lock", "--inh-caps", "-ipc_lock"]
    python = [sys.executable, "-c", f"from pgctl.engine import *\n{script}"]
    command = [*without, "prlimit", f"--memlock={kib << 10}", *python]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    return ended.stdout + ended.stderr


def test_locked_memory_that_runs_out_is_named_with_what_to_do():
    script = """
engine = TransferEngine(transport="verbs", progress="inline")
try:
    engine.alloc_mr(64 << 20)
except PgNoMemory as error:
    print(error)
engine.alloc_mr(1 << 20)
print("less will do")"""
    said = locking_at_most(32 << 10, script)
    assert said == (
        "rxe0 cannot register 67108864 bytes: at most 32768 KiB may be locked (ulimit -l); raise "
        "memlock in limits.conf, LimitMEMLOCK in a unit, or give CAP_IPC_LOCK\nless will do\n"
    )


def test_an_engine_that_may_lock_too_little_does_not_start():
    said = locking_at_most(64, 'TransferEngine(transport="verbs")')
    assert re.search(r"PgNoMemory: rxe0 cannot .* at most 64 KiB may be locked", said), said


def test_more_receives_than_a_device_completes_are_refused():
    with pytest.raises(PgError, match=r"rxe0 completes at most 32767 at a time.*: less of imms="):
        TransferEngine(**nic("imms=32768"))


class Crowd:
    """Many engines of one process, and a hub in another that knows them all."""

    def __init__(self, world, n, options=""):
        self.world = world
        self.process = world.process()
        self.members = [self.process.party(**nic("imms=64"), **SMALL) for _ in range(n)]
        self.addresses = [member.address() for member in self.members]
        self.hub_process = world.process()
        self.hub = self.hub_process.party(**nic(options))
        for address in self.addresses:
            self.hub.know(address)

    def heard(self):
        """How many of them the hub has reached with a barrier to all; its status."""
        expected = [member.expect(IMM, 1) for member in self.members]
        barrier = self.hub.submit_barrier(IMM)
        self.world.until(lambda: self.hub.status(barrier) is not None, "the barrier")
        reached = [i for i in range(len(self.members)) if not self.hub.info(i).status]
        for i in reached:
            self.world.fired(self.members[i], expected[i])
        return len(reached), self.hub.status(barrier)


def resident(process):
    """Of memory that is its own, or a device's and mapped there."""
    status = Path(f"/proc/{process.child.pid}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+) kB", status)[1]) << 10


def test_a_peer_takes_less_than_64_kib(world, request):
    crowd = Crowd(world, 256)
    before = resident(crowd.hub_process)
    assert crowd.heard() == (256, 0)
    each = (resident(crowd.hub_process) - before) // 256
    request.node.user_properties.append(("256 peers", f"{each} bytes each, resident"))
    assert each <= 64 << 10


def test_peers_for_whom_a_nic_has_no_room_are_refused(world):
    """So many receives leave 133 completions, and each connection takes two: one is for all."""
    crowd = Crowd(world, 70, "imms=32570")
    assert crowd.heard() == (66, -errno.ENOSPC)
    refused = {crowd.hub.info(i).reason.partition(": ")[2] for i in range(70)} - {""}
    assert refused == {"cannot connect: rxe0 has no room for more connections"}
