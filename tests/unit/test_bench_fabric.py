"""Which transport carries a benchmark, over which NICs, and what these say that they carried."""

import pytest

from pgctl.bench import fabric
from pgctl.bench.fabric import Device, Equipment, NoTransportError, choose, deal
from pgctl.bench.spec import ALL_NAMED, Spec
from pgctl.bench.wire import findings, merge
from pgctl.engine.config import FabricFacts, Transport
from pgctl.hardware.selection import SelectionError
from pgctl.report.record import Port

FOUR = ("rxe0", "rxe1", "rxe2", "rxe3")


def rank(host="a", devices=FOUR, verbs="", shm="", ofi=""):
    """What it finds. verbs, shm, ofi: why they cannot run."""
    found = tuple(Device(name, None, 0.0) for name in devices)
    return Equipment(host, {"shm": shm, "verbs": verbs, "ofi": ofi}, found)


def spec(transport="verbs", nics=1, **more):
    return Spec(operation="write", transport=transport, nics_per_rank=(nics,), **more)


# ---- Which transport


def test_one_host_is_left_to_shared_memory():
    assert choose(spec("auto"), [rank(), rank()]) == ("shm", "all ranks are on this host")


def test_hosts_are_joined_by_what_leaves_them():
    both = [rank("a"), rank("b")]
    assert choose(spec("auto"), both) == ("verbs", "the ranks are on 2 hosts")
    with pytest.raises(NoTransportError, match=r"shm: it does not leave a host, .* on a, b"):
        choose(spec("shm"), both)


def test_why_it_was_asked_for_is_said():
    asked = spec(transport_why="--nics is for RDMA devices")
    assert choose(asked, [rank(), rank()]) == ("verbs", "--nics is for RDMA devices")


def test_a_transport_has_to_run_on_every_host():
    ranks = [rank("a"), rank("b", verbs="no RDMA device", ofi="no libfabric")]
    with pytest.raises(NoTransportError, match=r"verbs: no RDMA device \(on b\)$"):
        choose(spec("verbs"), ranks)
    with pytest.raises(NoTransportError, match=r"shm: it .*; verbs: no RDMA .*; ofi: no libfabric"):
        choose(spec("auto"), ranks)


def test_libfabric_joins_hosts_where_rdma_devices_do_not():
    ranks = [rank("a"), rank("b", verbs="no RDMA device")]
    assert choose(spec("auto"), ranks)[0] == "ofi"


def test_a_transport_that_the_build_has_not():
    with pytest.raises(NoTransportError, match="this build has no transport 'udp'"):
        choose(spec("udp"), [rank()])


# ---- Which NICs


@pytest.mark.parametrize(
    ("hosts", "nics", "hands"),
    [
        ("aa", 1, ["0", "1"]),
        ("aa", 2, ["01", "23"]),
        ("aa", 3, ["012", "301"]),
        ("ab", 2, ["01", "01"]),
        ("abab", 1, ["0", "0", "1", "1"]),
        ("aaaaa", 1, ["0", "1", "2", "3", "0"]),
        ("aa", ALL_NAMED, ["0123", "0123"]),
    ],
)
def test_ranks_of_a_host_get_different_devices(hosts, nics, hands):
    dealt = deal("verbs", spec(nics=nics), [rank(host) for host in hosts])
    assert dealt == [tuple(f"rxe{i}" for i in hand) for hand in hands]


def test_ranks_with_different_numbers():
    asked = Spec(operation="write", nics_per_rank=(3, 1))
    assert deal("verbs", asked, [rank(), rank()]) == [("rxe0", "rxe1", "rxe2"), ("rxe3",)]


def test_lanes_are_numbered_at_each_rank():
    assert deal("shm", spec(nics=2), [rank(), rank()]) == [("shm0", "shm1")] * 2


def test_nics_that_libfabric_chooses_are_numbered_until_they_are_named():
    left = spec("ofi", nics=2)
    assert deal("ofi", left, [rank(), rank()]) == [("ofi0", "ofi1")] * 2
    chosen = fabric.group(0, "ofi", ("ofi0", "ofi1"), "inline", left)
    assert [nic.device for nic in chosen.nics] == ["", ""]
    named = spec("ofi", nic_names="eth")
    assert deal("ofi", named, [rank(devices=("eth0", "eth1"))] * 2) == [("eth0",), ("eth1",)]
    chosen = fabric.group(1, "ofi", ("eth1",), "inline", named)
    assert [nic.device for nic in chosen.nics] == ["eth1"]


@pytest.mark.parametrize(
    ("devices", "nics", "why"),
    [
        ((), 1, "no port of a is up and speaks RC"),
        (("rxe0",), 2, "rank 0 is to have 2 NICs, and a has 1: rxe0"),
        (tuple("abcde"), ALL_NAMED, "at most 4 NICs, and 5 are meant: a, b, c, d, e; say how many"),
    ],
)
def test_nics_that_are_not_there(devices, nics, why):
    with pytest.raises(NoTransportError, match=why):
        deal("verbs", spec(nics=nics), [rank(devices=devices)] * 2)


def test_a_name_of_no_nic_at_any_rank_is_everybodys_error():
    nowhere = Equipment("b", {"verbs": ""}, (), "'mlx5_9' is no NIC of this machine: rxe0")
    with pytest.raises(SelectionError, match="mlx5_9"):
        deal("verbs", spec(), [rank(), nowhere])


def test_options_are_those_of_the_transport():
    asked = spec(nic_options={"verbs": "gid=3", "ofi": "provider=tcp"})
    over = fabric.group(0, "verbs", ("rxe0",), "inline", asked)
    assert [(nic.device, nic.options) for nic in over.nics] == [("rxe0", "gid=3")]
    assert fabric.group(0, "ofi", ("ofi0",), "inline", asked).nics[0].options == "provider=tcp"
    assert fabric.group(0, "shm", ("shm0",), "inline", asked).nics[0].options == ""


def test_names_of_libfabrics_nics(monkeypatch):
    offers = [
        FabricFacts(provider, "", domain, 0, mbit_s, True, False)
        for provider, domain, mbit_s in (("tcp", "eth0", 0), ("tcp", "lo", 0), ("efa", "x", 1000))
    ]
    here = [Transport("verbs", None, "no RDMA device"), Transport("ofi", None, "")]
    monkeypatch.setattr(fabric, "transports", lambda: here)
    monkeypatch.setattr(fabric, "fabric_facts", lambda: ("2.0", offers))
    found = fabric.own_equipment(spec("ofi", nic_names="eth,x"))
    assert found.devices == (Device("eth0", None, 0.0), Device("x", None, 1.0))
    missing = fabric.own_equipment(spec("ofi", nic_names="=eth"))
    assert missing.unnamed == "'eth' is no NIC of this machine: eth0, lo, x"
    assert fabric.own_equipment(spec("ofi")).devices == ()


def test_a_device_moves_bytes_without_a_thread_of_ours():
    assert fabric.lanes("verbs", [("rxe0", "rxe1"), ("rxe2",)]) == [1, 1]
    assert fabric.lanes("ofi", [("eth0", "eth1"), ("eth2",)]) == [1, 1]
    assert fabric.lanes("shm", [("shm0", "shm1"), ("shm0",)]) == [2, 1]


def test_the_rate_of_links_is_known_of_all_or_not_at_all():
    fast, unknown = Device("mlx5_0", "0000:18:00.0", 400.0), Device("rxe0", None, 0.0)
    assert fabric.link_gbyte_s([fast, fast]) == 100.0
    assert fabric.link_gbyte_s([fast, unknown]) is None


# ---- What they have carried


def words(n):
    """Bytes, as a port counts them."""
    return {"port_xmit_data": n // 4, "port_rcv_data": 0}


def test_ports_of_all_hosts_once_each():
    said = [
        ({"rxe0": 400, "rxe1": 0}, {"rxe0": words(480), "rxe1": words(40), "rxe2": words(0)}),
        ({"rxe0": 80}, {"rxe0": words(999), "rxe1": words(40), "rxe3": words(8)}),
        ({"rxe0": 4}, {}),
    ]
    found = merge(["a", "a", "b"], said)
    assert [(p.host, p.name, p.ranks, p.payload_out, p.data_out) for p in found] == [
        ("a", "rxe0", (0, 1), 480, 480),
        ("a", "rxe1", (0,), 0, 40),
        ("a", "rxe3", (), 0, 8),
        ("b", "rxe0", (2,), 4, None),
    ]


def port(name, ranks, payload, sent, **counters):
    return Port("a", name, ranks, payload, sent, 0, counters)


def test_traffic_that_went_elsewhere_is_named():
    found = findings([port("rxe0", (0,), 10**6, 2000), port("rxe2", (), 0, 1_100_000)])
    assert [(f.id, f.verdict, f.evidence) for f in found] == [
        (
            "PG202",
            "warn",
            "rxe0 of a has sent 2.00 kB of 1.00 MB; NICs that no rank uses: rxe2 1.10 MB",
        )
    ]


@pytest.mark.parametrize(
    "quiet",
    [
        port("rxe0", (0,), 10**6, 1_020_000),
        port("rxe0", (0,), 0, 0),
        port("rxe0", (0,), 10**6, None),
        port("rxe0", (0, 1), 10**6, 0),
    ],
    ids=["sent", "nothing to send", "does not count", "may turn around inside"],
)
def test_traffic_that_went_where_it_should(quiet):
    assert findings([quiet]) == []


def test_packets_that_were_sent_again_are_one_warning():
    ports = [
        port("rxe0", (0,), 0, 0, duplicate_request=2, sent_pkts=7),
        port("rxe1", (1,), 0, 0, rcvd_seq_err=1),
        port("rxe2", (), 0, 9, out_of_sequence=5),
    ]
    found = findings(ports)
    assert [f.evidence for f in found] == [
        "rxe0 of a: duplicate_request 2; rxe1 of a: rcvd_seq_err 1"
    ]
    assert found[0].id == "PG203"
