"""The network that the tests beside this one stand on."""

import os
import signal
import subprocess
import sys

from hosts import missing
from lab import on


def ways(network, source):
    """Through which NIC each NIC of b is reached from one of a's."""
    found = []
    for nic in network.nics:
        ends = network.address(network.b, nic), network.address(network.a, source)
        words = ["ip", "route", "get", ends[0], "from", ends[1]]
        told = on(network.a, "sh", "-c", f"{' '.join(words)} 2>&1 || true").split()
        found.append(told[told.index("dev") + 1] if "dev" in told else None)
    return found


def test_a_rail_reaches_itself_alone(rails):
    assert ways(rails, "eth2") == [None, "eth2", None, None]


def test_a_switch_joins_all_and_each_nic_sends_its_own(switched):
    assert ways(switched, "eth2") == ["eth2"] * 4
    with switched.down(switched.a, "eth2"):
        assert ways(switched, "eth2") == [None] * 4
    assert ways(switched, "eth2") == ["eth2"] * 4


MAKE = """
import sys
from hosts import Network
network = Network("left")
print(network.a, flush=True)
sys.stdin.read()
"""


def test_what_a_killed_process_leaves_is_removed(networks):
    environ = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    child = subprocess.Popen(
        [sys.executable, "-c", MAKE],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environ,
        text=True,
    )
    with child:
        name = child.stdout.readline().strip()
        assert name in on(None, "ip", "netns", "list")
        child.send_signal(signal.SIGKILL)
    networks("next", rails=1)
    assert name not in on(None, "ip", "netns", "list")


def test_a_machine_without_the_tools_is_told_so(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert missing() == "no ip: iproute2 is not installed"
