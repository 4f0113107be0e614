"""Facts: what is read, how devices hang together, and what is unknown instead of wrong."""

import errno
import json
import os
import sys
from ctypes.util import find_library
from types import SimpleNamespace

import pytest
from machines import ETHERNET, GPU, IB, MELLANOX, NVIDIA, VGA, Machine

from pgctl import process
from pgctl.hardware.driver import Limits, Offer, ask_drivers, no_answers
from pgctl.hardware.facts import NothingThereError, read_facts
from pgctl.hardware.gpus import read_gpus
from pgctl.hardware.nics import nics_of_system
from pgctl.hardware.pci import read_tree
from pgctl.hardware.rdma import rdma_ports, read_rdma
from pgctl.hardware.root import Root, cpu_list, whole_number
from pgctl.hardware.selection import Selection, SelectionError


def pairs(facts):
    return {group.gpu: group.nics for group in facts.groups}


# ---- The groups of whole machines


def test_one_nic_for_each_gpu(built):
    facts = read_facts(str(built["cx7"].root))
    assert [g.nics for g in facts.groups] == [(f"mlx5_{i}",) for i in range(8)]
    assert {g.closeness for g in facts.groups} == {("PIX",)}
    assert [g.numa for g in facts.groups] == [0] * 4 + [1] * 4
    assert [g.rails for g in facts.groups] == [(i,) for i in range(8)]
    assert [g.cpus for g in facts.groups] == [(i,) for i in (0, 1, 2, 3, 8, 9, 10, 11)]


@pytest.mark.parametrize(("name", "each"), [("efa32", 4), ("efa16", 2)])
def test_several_nics_for_each_gpu(built, name, each):
    facts = read_facts(str(built[name].root))
    assert [len(g.nics) for g in facts.groups] == [each] * 8
    assert [rail for g in facts.groups for rail in g.rails] == list(range(8 * each))
    cpus = [cpu for g in facts.groups for cpu in g.cpus]
    assert len(set(cpus)) == len(cpus) == 8 * each
    for group in facts.groups:
        assert {facts.cpus.node_of(cpu) for cpu in group.cpus} == {group.numa}
        assert set(group.closeness) == {"PIX"}


def test_one_nic_for_two_gpus(built):
    facts = read_facts(str(built["shared"].root))
    assert [g.nics for g in facts.groups] == [(f"mlx5_{i // 2}",) for i in range(8)]
    assert all(g.shared == g.nics for g in facts.groups)


def test_a_laptop_has_a_group_of_shared_memory(built):
    facts = read_facts(str(built["laptop"].root))
    assert facts.gpus == ()
    assert [(g.gpu, g.numa, g.nics, g.cpus) for g in facts.groups] == [(None, 0, (), (0,))]


def test_nics_without_gpus_are_grouped_by_node(tmp_path):
    machine = Machine(tmp_path)
    machine.host()
    for i in range(6):
        bridge = machine.host_bridge(i * 16)
        nic = machine.pci(bridge, f"0000:{i * 16:02x}:00.0", IB, MELLANOX, 1, numa=i // 5)
        machine.rdma(nic, f"mlx5_{i}", gbit_s=200)
    groups = read_facts(str(tmp_path)).groups
    assert [(g.gpu, g.numa, g.nics) for g in groups] == [
        (None, 0, ("mlx5_0", "mlx5_1")),
        (None, 0, ("mlx5_2", "mlx5_3", "mlx5_4")),
        (None, 1, ("mlx5_5",)),
    ]


# ---- Odd machines


def test_the_closest_common_bridge_decides(tmp_path):
    """A cascade: one pair below a switch below a switch, a lone GPU and NIC on the outer one."""
    machine = Machine(tmp_path)
    machine.host()
    outer = machine.switch(0x10, 3, numa=0)
    up = machine.pci(outer[0], "0000:20:00.0", 0x060400, 0x1000, 1, numa=0)
    inner = [machine.pci(up, f"0000:21:0{i}.0", 0x060400, 0x1000, 1, numa=0) for i in range(2)]
    machine.gpu(inner[0], "0000:22:00.0", numa=0)
    machine.gpu(outer[1], "0000:30:00.0", numa=0)
    there = (("near", inner[1], "0000:23:00.0"), ("far", outer[2], "0000:31:00.0"))
    for name, above, address in there:
        machine.rdma(machine.pci(above, address, IB, MELLANOX, 1, numa=0), name, gbit_s=200)
    facts = read_facts(str(tmp_path))
    assert facts.affinity == {
        "0000:22:00.0": {"near": "PIX", "far": "PXB"},
        "0000:30:00.0": {"near": "PXB", "far": "PIX"},
    }
    assert pairs(facts) == {"0000:22:00.0": ("near",), "0000:30:00.0": ("far",)}


def test_a_node_of_minus_one_is_unknown(copy):
    machine = copy("cx7")
    machine.change("sys/devices/pci*/*/*/*/*/numa_node", -1)
    facts = read_facts(str(machine.root))
    assert facts.tree.devices["0000:13:00.0"].numa.why == "the firmware does not say (-1)"
    assert [g.numa for g in facts.groups] == [None] * 8
    assert [g.nics for g in facts.groups] == [(f"mlx5_{i}",) for i in range(8)]


def test_a_shared_switch_outweighs_an_unknown_node(copy):
    machine = copy("cx7")
    machine.change("sys/devices/pci*/*/*/*/0000:13:00.0/numa_node", -1)
    facts = read_facts(str(machine.root))
    assert facts.groups[0].numa is None
    assert (facts.groups[0].nics, facts.groups[0].closeness) == (("mlx5_0",), ("PIX",))


def test_the_only_node_needs_no_naming(built):
    facts = read_facts(str(built["laptop"].root))
    assert len(facts.cpus.nodes) == 1
    assert facts.groups[0].numa == 0


def test_pci_domains_of_a_virtual_machine(tmp_path):
    """Every device alone in a domain of its own, under a bus without bridges."""
    machine = Machine(tmp_path)
    machine.host()
    bus = "sys/devices/LNXSYSTM:00/LNXSYBUS:00/ACPI0004:00/VMBUS:00"
    for i in range(4):
        gpu, nic = f"000{i + 1}:00:00.0", f"010{i + 1}:00:00.0"
        machine.pci(f"{bus}/{i}/pci000{i + 1}:00", gpu, GPU, NVIDIA, 0x20B0, numa=i // 2)
        path = machine.pci(f"{bus}/n{i}/pci010{i + 1}:00", nic, IB, MELLANOX, 0x101C, numa=i // 2)
        machine.rdma(path, f"mlx5_ib{i}", gbit_s=200)
    facts = read_facts(str(tmp_path))
    assert [g.nics for g in facts.groups] == [(f"mlx5_ib{i}",) for i in range(4)]
    assert {how for g in facts.groups for how in g.closeness} == {"NODE"}


def test_a_virtual_function_and_a_down_port(copy):
    machine = copy("cx7")
    nic = machine.devices["0000:14:00.0"]
    machine.link(f"{nic}/physfn", machine.devices["0000:2c:00.0"])
    machine.write(f"{nic}/infiniband/mlx5_0/ports/1/state", "1: DOWN")
    facts = read_facts(str(machine.root))
    assert facts.tree.devices["0000:14:00.0"].physical_function == "0000:2c:00.0"
    assert pairs(facts)["0000:13:00.0"] == ("mlx5_1",)
    assert facts.groups[0].shared == ("mlx5_1",)


def test_ports_of_one_device_are_nics_of_their_own(tmp_path):
    machine = Machine(tmp_path)
    machine.host()
    ports = machine.switch(0x10, 3, numa=1)
    machine.gpu(ports[0], "0000:13:00.0", numa=1)
    machine.gpu(ports[1], "0000:14:00.0", numa=1)
    nic = machine.pci(ports[2], "0000:15:00.0", IB, MELLANOX, 1, numa=1)
    machine.rdma(nic, "mlx4_0", gbit_s=56, ports=2)
    facts = read_facts(str(tmp_path))
    assert pairs(facts) == {"0000:13:00.0": ("mlx4_0:1",), "0000:14:00.0": ("mlx4_0:2",)}


def test_a_bond_has_the_rate_of_its_members(copy):
    machine = copy("cx7")
    machine.bond("bond0", "ens0np0", "ens1np0", mbit_s=800_000)
    ndevs = "sys/devices/**/mlx5_0/ports/1/gid_attrs/ndevs/*"
    machine.change(ndevs, "bond0")
    facts = read_facts(str(machine.root))
    assert facts.netdev("bond0").members == ("ens0np0", "ens1np0")
    assert facts.netdev("ens0np0").master == "bond0"
    assert [nic.gbit_s.value for nic in facts.nics[:2]] == [800, 400]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Global tclass=106", 106),
        ("106\n", 106),
        ("Global tclass=106\n192.0.2.1 tclass=26", 106),
        ("Global tclass=", None),
        ("192.0.2.1 tclass=26", None),
        ("9" * 5000, None),
    ],
)
def test_traffic_classes(copy, text, found):
    machine = copy("cx7")
    machine.change("sys/devices/**/mlx5_0/tc/1/traffic_class", text)
    assert read_facts(str(machine.root)).ports[0].traffic_class.value == found


def test_what_draws_a_console_is_no_gpu(tmp_path):
    machine = Machine(tmp_path)
    machine.host()
    bridge = machine.host_bridge(0)
    machine.console(bridge, "0000:00:02.0")
    card = machine.pci(bridge, "0000:00:03.0", VGA, NVIDIA, 1, numa=0)
    machine.bars(card, 16 << 20, 8 << 30)
    assert [gpu.pci for gpu in read_facts(str(tmp_path)).gpus] == ["0000:00:03.0"]


def test_a_device_on_an_interface_without_hardware(tmp_path):
    machine = Machine(tmp_path)
    machine.host(sockets=1)
    machine.rdma("sys/devices/virtual", "rxe0", gbit_s=10, layer="Ethernet")
    machine.write("sys/devices/virtual/infiniband/rxe0/parent", "nic0")
    machine.netdev("sys/devices/virtual/net/nic0", mtu=4200)
    facts = read_facts(str(tmp_path))
    assert [(nic.name, nic.pci, nic.numa, nic.mtu.value) for nic in facts.nics] == [
        ("rxe0", None, 0, 4096)
    ]


def test_a_library_elsewhere_is_in_the_cache_of_the_loader(tmp_path):
    machine = Machine(tmp_path)
    machine.write("proc/version", "x")
    machine.write("etc/ld.so.cache", b"\1/lib/a.so\0/nix/lib/libfabric.so.1\0libibverbs.so.1.2\0")
    libraries = read_facts(str(tmp_path)).system.libraries
    assert libraries["libfabric"].value == "/nix/lib/libfabric.so.1"
    assert libraries["libibverbs"].value is None


class NvmlError(Exception):
    pass


def two_gpus(broken=False):
    """The driver's library, with two GPUs of which the first does not answer."""

    def start():
        if broken:
            raise NvmlError("Driver Not Loaded")

    def handle(index):
        if index == 0:
            raise NvmlError("GPU is lost")
        return index

    return SimpleNamespace(
        NVMLError=NvmlError,
        nvmlInit=start,
        nvmlShutdown=lambda: None,
        nvmlDeviceGetCount=lambda: 2,
        nvmlDeviceGetHandleByIndex=handle,
        nvmlDeviceGetPciInfo=lambda _: SimpleNamespace(busId=b"00000000:2B:00.0"),
        nvmlDeviceGetName=lambda _: b"NVIDIA H100",
        nvmlDeviceGetUUID=lambda _: "GPU-1",
        nvmlDeviceGetMemoryInfo=lambda _: SimpleNamespace(total=80 << 30),
        nvmlDeviceGetBAR1MemoryInfo=lambda _: SimpleNamespace(bar1Free=64 << 30),
    )


def test_what_the_driver_tells_is_kept_by_address(built, monkeypatch):
    root = Root(str(built["cx7"].root))
    tree, _ = read_tree(root)
    monkeypatch.setattr(root, "live", True)
    monkeypatch.setattr(root, "_locate", lambda path: f"{root.path}{path}")
    monkeypatch.setitem(sys.modules, "pynvml", two_gpus())
    gpus = {gpu.pci: gpu for gpu in read_gpus(root, tree)}
    assert gpus["0000:2b:00.0"].memory.value == 80 << 30
    assert gpus["0000:2b:00.0"].name.value == "NVIDIA H100"
    assert gpus["0000:13:00.0"].name.value == "NVIDIA H100 80GB HBM3"
    assert gpus["0000:13:00.0"].memory.why == "NVML does not know this device"
    monkeypatch.setitem(sys.modules, "pynvml", two_gpus(broken=True))
    assert read_gpus(root, tree)[0].memory.why == "nvmlInit: Driver Not Loaded"
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert read_gpus(root, tree)[0].memory.why == "nvidia-ml-py is not installed"


# ---- What drivers say

SAID = {
    **dict.fromkeys(Limits.__slots__, 5000),
    "atomics": True,
    "active_mtu": 2048,
    "dmabuf": 0,
}
OFFER = {
    "provider": "verbs;ofi_rxm",
    "fabric": "192.0.2.0/24",
    "domain": "rxe0",
    "max_msg": 1 << 30,
    "link_mbit_s": 0,
    "cq_data": True,
    "hmem": False,
}


@pytest.fixture
def drivers(monkeypatch):
    """What they say, as lines; and why they stop."""

    def say(*lines, why=""):
        ended = process.Ended(list(lines), [], why)
        monkeypatch.setattr(process, "run", lambda *_: ended)

    return say


def test_what_drivers_say(drivers):
    drivers(
        f"a:1 {json.dumps(SAID)}",
        f"b:1 {json.dumps(SAID | {'dmabuf': -errno.EPERM})}",
        "noise of a library",
        'c:1 {"why": "cannot open c"}',
        why="nothing came of it within 5 s",
    )
    answers = ask_drivers(["a:1", "b:1", "c:1", "d:1"])
    a = answers.of("a:1")
    assert a.limits.value.max_mr == 5000
    assert str(a.dmabuf) == "ibv_reg_dmabuf_mr a:1: False"
    assert str(a.active_mtu) == "ibv_query_port a:1: 2048"
    assert answers.of("b:1").dmabuf.why == "Operation not permitted"
    assert answers.of("c:1").limits.why == "cannot open c"
    assert answers.of("d:1").active_mtu.why == "nothing came of it within 5 s"
    assert str(answers.libfabric) == "fi_getinfo: unknown (nothing came of it within 5 s)"


def test_what_libfabric_says(drivers):
    said = {"version": "1.17", "offers": [OFFER]}
    drivers("noise of a provider", f"fi_getinfo {json.dumps(said)}")
    libfabric = ask_drivers([]).libfabric
    assert (libfabric.source, libfabric.value.version) == ("fi_getinfo", "1.17")
    assert libfabric.value.offers == (Offer(**OFFER),)
    drivers('fi_getinfo {"why": "libfabric.so.1: not there"}')
    assert str(ask_drivers([]).libfabric) == "fi_getinfo: unknown (libfabric.so.1: not there)"
    drivers(why="it crashed: SIGSEGV")
    assert ask_drivers([]).libfabric.why == "it crashed: SIGSEGV"


def test_drivers_of_this_machine_are_asked_in_a_process_of_their_own():
    answers = ask_drivers(["none_such:1"])
    told = answers.of("none_such:1")
    assert not told.limits.known
    assert told.limits.why not in ("", "it did not say")
    assert answers.libfabric.known or "libfabric" in answers.libfabric.why


def test_libfabric_of_this_machine():
    """Shared memory and TCP need nothing but a machine."""
    if find_library("fabric") is None:
        pytest.skip("libfabric is not installed: nothing to ask")
    offers = ask_drivers([]).libfabric.value.offers
    pairs = [(offer.provider, offer.domain) for offer in offers]
    assert len(set(pairs)) == len(pairs)
    plain = [o for o in offers if o.provider.split(";")[0] in ("tcp", "shm")]
    assert plain
    assert all(offer.max_msg and offer.cq_data and offer.domain for offer in plain)


def test_devices_have_what_their_drivers_say(built, drivers):
    names = [f"mlx5_{i}:1" for i in range(4)]
    drivers(*(f"{name} {json.dumps(SAID)}" for name in names))
    root = Root(str(built["shared"].root))
    assert rdma_ports(root) == names
    unasked, _ = read_rdma(root, no_answers("nobody asked"))
    assert unasked[0].limits.why == unasked[0].ports[0].active_mtu.why == "nobody asked"
    devices, _ = read_rdma(root, ask_drivers(names))
    assert [device.ports[0].active_mtu.value for device in devices] == [2048] * 4
    assert devices[0].limits.value.max_qp == 5000
    facts = read_facts(str(built["shared"].root), drivers=True)
    assert facts.rdma[0].limits.why == facts.libfabric.why == "not asked: the root is a copy"
    nics = nics_of_system(devices, facts.netdevs, facts.tree, facts.cpus)
    assert {nic.mtu.value for nic in nics} == {2048}


# ---- Choices


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("", range(8)),
        ("mlx5", range(8)),
        ("mlx5_1", [1]),
        ("^mlx5_1,mlx5_2", [0, 3, 4, 5, 6, 7]),
        ("=mlx5_1,mlx5_3", [1, 3]),
        ("^=mlx5_0", range(1, 8)),
        ("mlx5_4:1", [4]),
        ("0000:14:00.0,mlx5_7", [0, 7]),
        ("14:00.0", [0]),
    ],
)
def test_nics_in_the_syntax_of_nccl(built, text, names):
    facts = read_facts(str(built["cx7"].root), selection=Selection(nics=text))
    assert [nic.name for nic in facts.nics] == [f"mlx5_{i}" for i in names]


@pytest.mark.parametrize(
    ("selection", "part", "why"),
    [
        (Selection(nics="mlx5_9"), "nics", "'mlx5_9' is no NIC of this machine: mlx5_0, mlx5_1"),
        (Selection(nics="=mlx5"), "nics", "'mlx5' is no NIC"),
        (Selection(nics="mlx5_1:2"), "nics", "'mlx5_1:2' is no NIC"),
        (Selection(nics="mlx5_1,"), "nics", "'' is no NIC"),
        (Selection(nics="^"), "nics", "'' is no NIC"),
        (Selection(gpus="0"), "gpus", "indices shift"),
        (Selection(gpus="0000:99:00.0"), "gpus", "is no GPU of this machine: 0000:13:00.0"),
        (Selection(nics="mlx5_1", nics_per_gpu=2), "nics_per_gpu", "but 1 can be used"),
    ],
)
def test_a_choice_of_nothing(built, selection, part, why):
    with pytest.raises(SelectionError) as caught:
        read_facts(str(built["cx7"].root), selection=selection)
    assert caught.value.part == part
    assert why in str(caught.value)


def test_gpus_by_address(built):
    def chosen(text):
        facts = read_facts(str(built["cx7"].root), selection=Selection(gpus=text))
        return [group.gpu for group in facts.groups]

    assert chosen("2b:00.0,0000:13:00.0") == ["0000:13:00.0", "0000:2b:00.0"]
    assert len(chosen("^0000:13:00.0")) == 7


@pytest.mark.parametrize("count", [1, 2, 4])
def test_so_many_nics_for_each_gpu(built, count):
    facts = read_facts(str(built["cx7"].root), selection=Selection(nics_per_gpu=count))
    assert [len(g.nics) for g in facts.groups] == [count] * 8
    assert [g.nics[0] for g in facts.groups] == [f"mlx5_{i}" for i in range(8)]
    assert not any("SYS" in g.closeness for g in facts.groups)


def test_more_gpus_than_cores(copy):
    machine = copy("cx7")
    machine.status("0-2")
    facts = read_facts(str(machine.root))
    assert [g.cpus for g in facts.groups] == [(0,), (1,), (2,), (), (), (), (), ()]


# ---- Files


def test_links_stay_inside_of_a_copy(tmp_path):
    (tmp_path / "secret").write_text("outside")
    inside = tmp_path / "root"
    (inside / "sys").mkdir(parents=True)
    (inside / "sys/there").write_text("inside")
    (inside / "sys/up").symlink_to("../../../../secret")
    (inside / "sys/out").symlink_to(tmp_path / "secret")
    (inside / "sys/absolute").symlink_to("/sys/there")
    root = Root(str(inside))
    assert root.text("/sys/absolute").value == "inside"
    for name in ("up", "out"):
        assert root.text(f"/sys/{name}").why == "not there"


@pytest.mark.parametrize("target", ["loop", "./loop", "/loop", "loop/" * 400, "../loop/x"])
def test_a_loop_of_links_is_unknown(tmp_path, target):
    (tmp_path / "loop").symlink_to(target)
    fact = Root(str(tmp_path)).text("/loop/a/b")
    assert fact.value is None
    assert "ELOOP" in fact.why


def test_what_is_not_a_file_of_text(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    (tmp_path / "empty").touch()
    (tmp_path / "escape").write_bytes(b"a\x1b[31mb\xff\n")
    with (tmp_path / "endless").open("wb") as file:
        file.truncate(1 << 40)
    root = Root(str(tmp_path))
    assert root.text("/pipe").why == "not a regular file"
    assert "EISDIR" in root.text("/folder").why or root.text("/folder").why == "not a regular file"
    assert root.text("/empty").why == "empty"
    assert root.text("/escape").value == "a\ufffd[31mb\ufffd"
    assert len(root.raw("/endless").value) == 1 << 18
    assert "ENOTDIR" in root.names("/empty").why
    assert str(root.read("/escape", whole_number)).startswith("/escape: unknown ('a")


def test_a_root_with_nothing_in_it(tmp_path):
    with pytest.raises(NothingThereError, match="neither sys nor proc"):
        read_facts(str(tmp_path))
    with pytest.raises(NothingThereError, match="not there"):
        read_facts(str(tmp_path / "missing"))


def test_a_copy_of_links_resolved(tmp_path):
    """Without the links of sysfs nobody knows where a device hangs."""
    machine = Machine(tmp_path)
    machine.host()
    machine.write("sys/bus/pci/devices/0000:10:00.0/class", f"{ETHERNET:#x}")
    device = read_facts(str(tmp_path)).tree.devices["0000:10:00.0"]
    assert device.above.value is None
    assert device.above.why.startswith("invalid argument")


@pytest.mark.parametrize(
    ("text", "cpus"), [("0-3,8", (0, 1, 2, 3, 8)), ("5", (5,)), ("1,1-2", (1, 2))]
)
def test_lists_of_cpus(text, cpus):
    assert cpu_list(text) == cpus


@pytest.mark.parametrize("text", ["3-1", "x", "0-", "0-99999999", "-1"])
def test_no_lists_of_cpus(text):
    with pytest.raises(ValueError, match="not a"):
        cpu_list(text)
