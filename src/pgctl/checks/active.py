"""Checks of what was tried on each NIC."""

from __future__ import annotations

from pgctl.checks.check import Opinion, tried
from pgctl.hardware.facts import Facts
from pgctl.profile import Expect


def registration(facts: Facts, _: Expect) -> Opinion:
    return tried(
        facts,
        "registration",
        "see PG104 for locked memory, PG116 for a device that cannot be opened, PG125 for ports; "
        "leave out NICs that are not for this process with --nics ^NAME",
    )


def loopback(facts: Facts, _: Expect) -> Opinion:
    return tried(
        facts,
        "loopback",
        "see PG125 for the port's state, PG106 for its address; then look into dmesg, and let the "
        "NIC write to itself by other means (ib_write_bw)",
    )
