"""What a device refuses or cannot do is said with the reason; what it is asked for is in force."""

import re
from pathlib import Path

import pytest
from nics import nic, transfer

from pgctl.engine import PgError, PgInvalid, TransferEngine, log_to

pytestmark = pytest.mark.rdma


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("speed=3", 'no option "speed=3"; it has gid, pkey, mtu, tc, '),
        ("tc=106,mtu", 'option "mtu" of verbs: mtu= takes 256, 512, 1024'),
        ("mtu=1500", 'option "mtu=1500" of verbs: mtu= takes 256, 512'),
        ("tc=256", "tc= takes a traffic class, 0 to 255"),
        ("sl=-1", "sl= takes a service level, 0 to 15"),
        ("timeout=0", "timeout= takes .*, 1 to 31"),
        ("retry=eight", "retry= takes a number of retries, 0 to 7"),
        ("gid=255", r"\w+ port 1 has no GID 255; it has \d+ places for them"),
        ("pkey=0x1234", r"\w+ port 1 is not in the partition of P_Key 0x1234"),
    ],
)
def test_a_wrong_option_is_named(options, message):
    with pytest.raises(PgInvalid, match=message):
        TransferEngine(**nic(options))


@pytest.mark.parametrize(
    ("device", "message"),
    [
        ("mlx9_9", 'there is no RDMA device "mlx9_9"; there is .+'),
        ("{}:9", r'"{}:9": {} has ports 1 to \d'),
        ("{}:x", r'"{}:x": {} has ports 1 to \d'),
    ],
)
def test_a_wrong_device_is_named(device, message):
    known = next(Path("/sys/class/infiniband").iterdir()).name
    with pytest.raises(PgError, match=message.replace("{}", known)):
        TransferEngine(**nic(device=device.format(known)))


def test_options_are_those_of_the_environment_where_none_are_given(world, monkeypatch):
    monkeypatch.setenv("PGCTL_VERBS", "mtu=256")
    a, b = world.party(**nic()), world.party(**nic("mtu=512"))
    assert transfer(world, a, b).endswith("MTU 256")


def test_the_smaller_mtu_is_used_and_said(world, tmp_path):
    log = tmp_path / "log"
    try:
        with log.open("w") as file:
            log_to(file, "warn")
        a, b = world.party(**nic("mtu=256")), world.party(**nic("mtu=512"))
        assert transfer(world, a, b).endswith("MTU 256")
        assert b.path().endswith("MTU 256")
    finally:
        log_to(None)
    assert re.search("MTU of 512, the peer's NIC 256: the smaller one is used", log.read_text())
