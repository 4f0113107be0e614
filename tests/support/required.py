"""What must be there: PGCTL_REQUIRE names transports, and hosts for those of hosts.py."""

import os

import pytest

REQUIRED = [name for name in os.environ.get("PGCTL_REQUIRE", "").split(",") if name]


def do_without(name, reason):
    """Skips the test, or fails it where that must be there."""
    refuse = pytest.fail if name in REQUIRED else pytest.skip
    refuse(f"{name}: {reason}")
