"""What a program runs over, and what goes wrong with it."""

from __future__ import annotations

import contextlib
import os
import random
import threading
from collections.abc import Iterator
from pathlib import Path

from program import Json
from sysfs import Sysfs

MOST_NICS = 4  # of a rank
LIBRARY = Path(__file__).parents[2] / "build/test-c/native/libfabric_fake_efa.so"


class Over:
    """A transport as it is; devices: of each NIC of a rank, "": it chooses."""

    def __init__(self, transport: str, environ: dict[str, str] | None = None, impair: str = ""):
        self.transport = transport
        self.environ = environ or {}
        """Of all ranks."""
        self.impair = impair
        self.nics_may_fail = "fail=" in impair or "kill=" in impair

    def devices(self, rank: int, n: int) -> list[str]:  # noqa: ARG002 - see FakeEfa
        return [""] * n

    def settings(self, seed: int) -> dict[str, str]:  # noqa: ARG002
        """Of the environment, for one program."""
        return {}

    @contextlib.contextmanager
    def trouble(self, program: Json) -> Iterator[None]:  # noqa: ARG002
        """While the program runs."""
        yield


class FakeEfa(Over):
    """The stand-in for EFA. Each rank has NICs of its own, of which one stays up, while others go
    down and come up.
    """

    def __init__(self, folder: Path, flap: float = 0.0, impair: str = ""):
        """flap: seconds between two of these, about; 0: all stay up."""
        n = 6 * MOST_NICS
        self.sysfs = Sysfs(folder / "infiniband", n)
        self.flap = flap
        environ = {
            "PGCTL_OFI": f"library={LIBRARY},sysfs={self.sysfs.path}",
            "FAKE_EFA_NICS": str(n),
            "FAKE_EFA_SYSFS": str(self.sysfs.path),
        }
        super().__init__("ofi", environ, impair)
        self.nics_may_fail |= bool(flap)

    def devices(self, rank: int, n: int) -> list[str]:
        return [f"fake_efa_{MOST_NICS * rank + i}" for i in range(n)]

    def settings(self, seed: int) -> dict[str, str]:
        """What it is told otherwise comes after that, and holds."""
        more = os.environ.get("FAKE_EFA", "")
        return {"FAKE_EFA": f"seed={seed},{more}".rstrip(",")}

    @contextlib.contextmanager
    def trouble(self, program: Json) -> Iterator[None]:
        some = random.Random(program["seed"])
        nics = []
        for rank, config in enumerate(program["ranks"]):
            its = range(MOST_NICS * rank, MOST_NICS * rank + len(config["nics"]))
            stays = some.choice(its)
            nics += [nic for nic in its if nic != stays]
        enough = threading.Event()
        thread = threading.Thread(target=self._go_on, args=(nics, some, enough))
        if self.flap and nics:
            thread.start()
        try:
            yield
        finally:
            enough.set()
            if thread.ident:
                thread.join()
            self.sysfs.up(*nics)

    def _go_on(self, nics: list[int], some: random.Random, enough: threading.Event) -> None:
        down: set[int] = set()
        while not enough.wait(some.uniform(0.5, 1.5) * self.flap):
            nic = some.choice(nics)
            (self.sysfs.up if nic in down else self.sysfs.down)(nic)
            down ^= {nic}


NAMES = "shm", "tcp", "fake_efa"


def over(name: str, folder: Path, flap: float = 0.0, impair: str = "") -> Over:
    """folder: for what it needs to keep."""
    if name == "fake_efa":
        return FakeEfa(folder, flap, impair)
    if name == "tcp":
        return Over("ofi", {"PGCTL_OFI": "provider=tcp"}, impair)
    return Over("shm", impair=impair)
