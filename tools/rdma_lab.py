"""Where RDMA devices are: on this machine, or in a lab.

A lab is a folder with a run.sh that starts a kernel with Soft-RoCE devices and runs a command in
it: run.sh -t SECONDS -C FOLDER -l LAYOUT COMMAND. PGCTL_RDMA_LAB names it, or it lies beside the
checkout.
"""

import contextlib
import os
import shlex
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BESIDE = ROOT.parent / "shared/rdma-lab"
SKIP = 77
"""How a program leaves that finds neither."""


def has_device() -> bool:
    """Whether this machine has an RDMA device that we may use."""
    if not any(Path("/sys/class/infiniband").glob("*")):
        return False
    for device in Path("/dev/infiniband").glob("uverbs*"):
        with contextlib.suppress(OSError):
            os.close(os.open(device, os.O_RDWR | os.O_CLOEXEC))
            return True
    return False


def find() -> Path | None:
    """The lab; exits if PGCTL_RDMA_LAB names none."""
    named = os.environ.get("PGCTL_RDMA_LAB")
    if named and not (Path(named) / "run.sh").exists():
        sys.exit(f"PGCTL_RDMA_LAB={named} has no run.sh")
    lab = Path(named) if named else BESIDE
    return lab if (lab / "run.sh").exists() else None


def missing() -> str:
    """Why there is nothing to run on."""
    return (
        "no RDMA device in /dev/infiniband that can be opened, and no lab in PGCTL_RDMA_LAB or "
        f"{BESIDE}"
    )


def command(lab: Path, words: list[str], limit_s: int, layout: str = "four") -> list[str]:
    """What runs these words in the lab, in the checkout; for so long at most."""
    run = [str(lab / "run.sh"), "-t", str(limit_s), "-C", str(ROOT), "-l", layout]
    return [*run, shlex.join(["exec", *words])]
