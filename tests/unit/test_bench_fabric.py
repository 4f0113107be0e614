"""Which transport carries a benchmark, over which NICs, and what these say that they carried."""

from dataclasses import replace

import pytest

from pgctl.bench import fabric
from pgctl.bench.fabric import Device, Equipment, NoTransportError, choose, deal, with_devices
from pgctl.bench.placement import Placement
from pgctl.bench.spec import AS_GROUPED, Spec
from pgctl.bench.wire import findings, merge
from pgctl.engine.config import FabricFacts
from pgctl.hardware.facts import read_facts
from pgctl.hardware.selection import Selection, SelectionError
from pgctl.report.record import Port

FOUR = ("rxe0", "rxe1", "rxe2", "rxe3")


def rank(host="a", devices=FOUR, verbs="", shm="", ofi=""):
    """What it finds. verbs, shm, ofi: why they cannot run."""
    found = tuple(Device(name, None, 0.0) for name in devices)
    return Equipment(host, {"shm": shm, "verbs": verbs, "ofi": ofi}, found)


def spec(transport="verbs", nics=1, **more):
    return Spec(operation="write", transport=transport, nics_per_rank=(nics,), **more)


def names(hands):
    return [hand.nics for hand in hands]


def config(transport, asked, mine, worker=None):
    """What the engine of the only rank gets."""
    (hand,) = deal(transport, asked, [mine])
    return fabric.group(
        transport, hand, Placement(None, 4, False, "inline", 1, worker), mine, asked
    )


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
        ("aa", AS_GROUPED, ["0123", "0123"]),
    ],
)
def test_ranks_of_a_host_get_different_devices(hosts, nics, hands):
    dealt = deal("verbs", spec(nics=nics), [rank(host) for host in hosts])
    assert names(dealt) == [tuple(f"rxe{i}" for i in hand) for hand in hands]


def test_ranks_with_different_numbers():
    asked = Spec(operation="write", nics_per_rank=(3, 1))
    dealt = names(deal("verbs", asked, [rank(), rank()]))
    assert dealt == [("rxe0", "rxe1", "rxe2"), ("rxe3",)]


def test_lanes_are_numbered_at_each_rank():
    assert names(deal("shm", spec(nics=2), [rank(), rank()])) == [("shm0", "shm1")] * 2
    assert names(deal("shm", spec(nics=AS_GROUPED), [rank()])) == [("shm0",)]


def test_nics_that_libfabric_chooses_are_numbered_until_they_are_named():
    left, none = spec("ofi", nics=2), rank(devices=())
    assert names(deal("ofi", left, [none, none])) == [("ofi0", "ofi1")] * 2
    assert [nic.device for nic in config("ofi", left, none).nics] == ["", ""]
    named, eth = spec("ofi", nic_names="eth"), rank(devices=("eth0", "eth1"))
    assert names(deal("ofi", named, [eth, eth])) == [("eth0",), ("eth1",)]
    assert [(nic.device, nic.rail) for nic in config("ofi", named, eth).nics] == [("eth0", 0)]


@pytest.mark.parametrize(
    ("devices", "nics", "why"),
    [
        ((), 1, "no port of a is up and speaks RC"),
        (("rxe0",), 2, "rank 0 is to have 2 NICs, and a has 1: rxe0"),
        (
            tuple("abcde"),
            AS_GROUPED,
            "at most 4 NICs, and 5 are meant: a, b, c, d, e; say how many",
        ),
    ],
)
def test_nics_that_are_not_there(devices, nics, why):
    with pytest.raises(NoTransportError, match=why):
        deal("verbs", spec(nics=nics), [rank(devices=devices)] * 2)


def test_a_name_of_no_nic_at_any_rank_is_everybodys_error():
    nowhere = Equipment("b", {"verbs": ""}, unnamed="'mlx5_9' is no NIC here: rxe0")
    with pytest.raises(SelectionError, match="mlx5_9"):
        deal("verbs", spec(), [rank(), nowhere])


def test_options_are_those_of_the_transport():
    asked = spec(nic_options={"verbs": "gid=3", "ofi": "provider=tcp"})
    over = config("verbs", asked, rank())
    assert [(nic.device, nic.options) for nic in over.nics] == [("rxe0", "gid=3")]
    assert config("ofi", asked, rank(devices=())).nics[0].options == "provider=tcp"
    assert config("shm", asked, rank(devices=())).nics[0].options == ""


def offers(monkeypatch, *rows):
    """What libfabric has: rows of provider, domain and Mbit/s."""
    facts = [FabricFacts(row[0], "", row[1], 0, row[2], True, False) for row in rows]
    monkeypatch.setattr(fabric, "fabric_facts", lambda: ("2.0", facts))


def test_names_of_libfabrics_nics(monkeypatch, built):
    machine(monkeypatch, built, "laptop")
    offers(monkeypatch, ("tcp", "eth0", 0), ("tcp", "lo", 0), ("efa", "x", 1000))
    found = with_devices(HERE, "ofi", spec("ofi", nic_names="eth,x"), 1)
    assert found.devices == (Device("eth0", None, 0.0), Device("x", None, 1.0))
    missing = with_devices(HERE, "ofi", spec("ofi", nic_names="=eth"), 1)
    assert missing.unnamed == "'eth' is no NIC of this machine: eth0, lo, x"
    assert with_devices(HERE, "ofi", spec("ofi"), 1).devices == ()


# ---- What probe prints

HERE = Equipment("a", {})


def machine(monkeypatch, built, name):
    """Is read from now on; a function of a selection."""

    def read(**selection):
        return read_facts(str(built[name].root), **selection)

    monkeypatch.setattr(fabric, "read_facts", read)
    return lambda nics="", each=None: read(selection=Selection(nics, nics_per_gpu=each)).groups


@pytest.mark.parametrize("asked", ["", "mlx5_1,mlx5_2,mlx5_6", "^mlx5_0"])
def test_a_rank_has_the_group_that_probe_prints(monkeypatch, built, asked):
    printed = machine(monkeypatch, built, "cx7")(asked)
    over = spec(nics=AS_GROUPED, nic_names=asked)
    mine = with_devices(HERE, "verbs", over, AS_GROUPED)
    hands = deal("verbs", over, [mine] * 10)
    assert [hand.group for hand in hands] == [*printed, *printed[:2]]
    assert fabric.group_names(hands) == tuple(hand.group.gpu for hand in hands)
    assert [hand.core for hand in hands] == [*(group.cpus[0] for group in printed), None, None]


def test_gpus_that_share_a_nic(monkeypatch, built):
    machine(monkeypatch, built, "shared")
    over = spec(nics=AS_GROUPED)
    hands = deal("verbs", over, [with_devices(HERE, "verbs", over, AS_GROUPED)] * 4)
    assert names(hands) == [("mlx5_0",), ("mlx5_0",), ("mlx5_1",), ("mlx5_1",)]


def test_so_many_nics_are_dealt_out_whatever_groups_there_are(monkeypatch, built):
    """As they are where a sender is to be on one device and a receiver on another."""
    machine(monkeypatch, built, "cx7")
    apart = spec(nics=1, nic_names="=mlx5_0,mlx5_4")
    hands = deal("verbs", apart, [with_devices(HERE, "verbs", apart, 1)] * 2)
    assert names(hands) == [("mlx5_0",), ("mlx5_4",)]
    assert [(fabric.group_names(hands), hand.core) for hand in hands] == [((), None)] * 2
    three = with_devices(HERE, "verbs", spec(nics=3), 3)
    hands = deal("verbs", spec(nics=3), [three] * 3)
    assert [nic[-1] for hand in hands for nic in hand.nics] == [*"01234567", "0"]
    (made,) = config("verbs", apart, with_devices(HERE, "verbs", apart, 1)).nics
    assert (made.device, made.rail, made.link_mbit_s) == ("mlx5_0", 0, 400_000)


def test_nics_without_gpus_are_groups_of_their_nodes(monkeypatch, built):
    machine(monkeypatch, built, "cx7")
    known = fabric.read_facts

    def read(**selection):
        return replace(known(**selection), gpus=())

    monkeypatch.setattr(fabric, "read_facts", read)
    whole = with_devices(HERE, "verbs", spec(), AS_GROUPED)
    hands = deal("verbs", spec(nics=AS_GROUPED), [whole] * 3)
    assert [len(hand.nics) for hand in hands] == [4, 4, 4]
    assert fabric.group_names(hands) == ("0", "1", "0")
    assert [hand.core for hand in hands] == [0, 8, 1]


EFA = ("rdmap20s0", "rdmap21s0", "rdmap22s0", "rdmap23s0")
"""The first GPU's."""


def test_the_engine_is_configured_with_it(monkeypatch, built):
    group = machine(monkeypatch, built, "efa32")()[0]
    offers(monkeypatch, *(("efa", f"{nic}-rdm", 100_000) for nic in EFA))
    over = spec("ofi", nics=AS_GROUPED)
    made = config("ofi", over, with_devices(HERE, "ofi", over, AS_GROUPED), worker=group.cpus[0])
    assert [nic.device for nic in made.nics] == [*EFA] == [*group.nics]
    assert [nic.rail for nic in made.nics] == [1, 2, 3, 4]
    assert {(nic.transport, nic.link_mbit_s) for nic in made.nics} == {("ofi", 100_000)}
    assert made.worker_cpu == group.cpus[0]


@pytest.mark.parametrize(
    ("options", "environ", "found"),
    [
        ("", "", EFA),
        ("provider=efa", "", EFA),
        ("", "provider=efa", EFA),
        ("provider=verbs", "", EFA[:1]),
        ("provider=verbs;ofi_rxm", "", EFA[:1]),
        ("provider=tcp", "", ()),
        ("", "emulated=1,provider=tcp", ()),
        ("provider=efa", "provider=tcp", EFA),
    ],
)
def test_rdma_devices_of_the_provider_that_is_meant(monkeypatch, built, options, environ, found):
    machine(monkeypatch, built, "efa32")
    efa = [("efa", f"{nic}-rdm", 100_000) for nic in EFA]
    offers(monkeypatch, *efa, ("verbs;ofi_rxm", EFA[0], 0), ("tcp", "eth0", 0))
    monkeypatch.setenv("PGCTL_OFI", environ)
    over = spec("ofi", nic_options={"ofi": options})
    mine = with_devices(HERE, "ofi", over, AS_GROUPED)
    assert tuple(device.name for device in mine.devices) == found


def test_rdma_devices_of_verbs_where_there_is_no_efa(monkeypatch, built):
    machine(monkeypatch, built, "efa32")
    offers(monkeypatch, ("verbs;ofi_rxm", EFA[0], 0), ("tcp", "eth0", 0))
    mine = with_devices(HERE, "ofi", spec("ofi"), AS_GROUPED)
    assert [device.name for device in mine.devices] == [EFA[0]]


def test_nics_that_the_transport_cannot_use(monkeypatch, built):
    """EFA with verbs."""
    machine(monkeypatch, built, "efa32")
    mine = with_devices(HERE, "verbs", spec(), AS_GROUPED)
    with pytest.raises(NoTransportError, match="no port of a is up and speaks RC"):
        deal("verbs", spec(nics=AS_GROUPED), [mine])


def test_a_device_moves_bytes_without_a_thread_of_ours():
    hands = deal("shm", Spec(operation="write", nics_per_rank=(2, 1)), [rank(), rank()])
    assert [fabric.lanes(name, hands) for name in ("verbs", "ofi", "shm")] == [
        [1, 1],
        [1, 1],
        [2, 1],
    ]


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
