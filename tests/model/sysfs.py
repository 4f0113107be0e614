"""Files by which NICs of the stand-in for EFA go down and come up; see fake_efa.h."""

from __future__ import annotations

from pathlib import Path


class Sysfs:
    """A directory in the layout of /sys/class/infiniband: a NIC is what its file says."""

    def __init__(self, path: Path, n: int) -> None:
        self.path = path
        for nic in range(n):
            self._file(nic).parent.mkdir(parents=True)
            self.up(nic)

    def _file(self, nic: int) -> Path:
        return self.path / f"fake_efa_{nic}/ports/1/state"

    def up(self, *nics: int) -> None:
        for nic in nics:
            self._write(nic, "4: ACTIVE")

    def down(self, *nics: int) -> None:
        for nic in nics:
            self._write(nic, "1: DOWN")

    def _write(self, nic: int, text: str) -> None:
        """Whole, or not at all: it may be read at any time."""
        new = self._file(nic).with_name("new")
        new.write_text(text + "\n", encoding="utf-8")
        new.rename(self._file(nic))
