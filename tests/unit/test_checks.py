"""Every check: a host where it fires, hosts where it does not, and none where it guesses."""

from dataclasses import replace
from pathlib import Path

import pytest
from machines import IB, MELLANOX, MEMORY_64, Machine, config_space, put

from pgctl.checks.catalog import CHECKS, UnknownCheckError, choose, find, run_checks
from pgctl.checks.check import NEEDS_TIME, NEEDS_TRAFFIC, NEEDS_TRIAL
from pgctl.hardware.driver import Libfabric, Limits, Offer
from pgctl.hardware.facts import read_facts
from pgctl.hardware.root import Fact
from pgctl.hardware.trials import Trial, Trials
from pgctl.profile import Expect

ANY_PORT = "sys/devices/*/*/*/*/*/infiniband/*/ports/1"
ANY_END = "sys/devices/*/*/*/*/*"
OPEN = {NEEDS_TIME, NEEDS_TRAFFIC, NEEDS_TRIAL}
"""Reasons to skip of a check that applies and finds nothing."""
NEVER_PASS = {"PG101", "PG108", "PG119"}
"""What they are about shows only between hosts, or over time."""


def one(machine: Machine, pattern: str, text: object) -> None:
    """Change the first file that is there under this name."""
    put(min(machine.root.glob(pattern)), text)


def end(machine: Machine, kind: str) -> str:
    """The directory of the first device of a driver."""
    found = (d for d in machine.devices.values() if (machine.root / d / "driver").exists())
    return next(d for d in found if (machine.root / d / "driver").resolve().name == kind)


def bond(machine: Machine) -> None:
    machine.netdev("sys/devices/virtual/net/ens20", mbit_s=400_000)
    machine.bond("bond0", "ens0np0", "ens20", mbit_s=800_000)
    machine.change("sys/devices/**/mlx5_0/ports/1/gid_attrs/ndevs/*", "bond0")


def bond_member_down(machine: Machine) -> None:
    bond(machine)
    machine.write("sys/devices/virtual/net/ens20/operstate", "down")


def no_address(machine: Machine) -> None:
    machine.remove(f"{ANY_PORT}/gids/2")


def closed_driver(machine: Machine) -> None:
    machine.remove("sys/module/nvidia_peermem")
    machine.write(
        "proc/driver/nvidia/version", "NVRM version: NVIDIA UNIX x86_64  535.1.2  Release"
    )


def old_kernel(machine: Machine) -> None:
    machine.write("proc/sys/kernel/osrelease", "5.4.0-42-generic")


def no_way_to_register(machine: Machine) -> None:
    machine.remove("sys/module/nvidia_peermem")
    old_kernel(machine)


def nic_without_driver(machine: Machine) -> None:
    machine.remove("sys/class/infiniband")
    machine.pci(machine.host_bridge(0xF0), "0000:f0:00.0", IB, MELLANOX, 0x1021, numa=0)


def small_bar(machine: Machine) -> None:
    machine.bars(end(machine, "nvidia"), 16 << 20, 256 << 20)


def bar_without_address(machine: Machine) -> None:
    line = f"{0:#018x} {0:#018x} {MEMORY_64:#018x}"
    machine.write(f"{end(machine, 'nvidia')}/resource", line)


def dead_nic(machine: Machine) -> None:
    machine.remove("sys/class/infiniband/mlx5_0")


def other_provider(machine: Machine) -> None:
    machine.remove("etc/libibverbs.d/mlx5.driver")
    machine.provider("efa")


def powersave(machine: Machine) -> None:
    machine.write("sys/devices/system/cpu/cpu3/cpufreq/scaling_governor", "powersave")


def no_huge_pages(machine: Machine) -> None:
    machine.write("sys/kernel/mm/transparent_hugepage/enabled", "always madvise [never]")


def nics_nowhere(machine: Machine) -> None:
    machine.change(f"{ANY_END}/numa_node", -1)
    dead_nic(machine)


ACS = config_space(acs=0x001D)

BAD = [
    ("PG101", "cx7", "warn", lambda m: m.environ(NCCL_IB_DISABLE="1")),
    ("PG101", "cx7", "warn", lambda m: m.environ(NCCL_NET="Socket")),
    ("PG101", "cx7", "fail", lambda m: m.environ(NCCL_IB_HCA="=mlx5_9")),
    ("PG101", "cx7", "fail", lambda m: m.change(f"{ANY_PORT}/state", "1: DOWN")),
    ("PG102", "cx7", "fail", no_way_to_register),
    ("PG102", "efa16", "fail", closed_driver),
    ("PG103", "cx7", "fail", lambda m: m.change(f"{end(m, 'mlx5_core')}/config", "x" * 64)),
    ("PG103", "shared", "fail", bar_without_address),
    ("PG104", "cx7", "fail", lambda m: m.limit_memlock(8 << 20)),
    ("PG104", "shared", "warn", lambda m: m.limit_memlock(64 << 30)),
    ("PG105", "cx7", "warn", small_bar),
    ("PG105", "cx7", "warn", lambda m: m.write("proc/sys/vm/max_map_count", 1024)),
    ("PG106", "cx7", "fail", no_address),
    ("PG106", "cx7", "fail", lambda m: m.environ(NCCL_IB_GID_INDEX="0")),
    ("PG107", "cx7", "warn", lambda m: m.change("sys/devices/pci*/*/*/*/*/net/ens3np0/mtu", 1500)),
    ("PG107", "cx7", "warn", lambda m: m.change("sys/devices/pci*/*/*/*/*/net/ens3np0/mtu", 4200)),
    ("PG108", "shared", "fail", lambda m: one(m, f"{ANY_PORT}/pkeys/0", "0x7fff")),
    ("PG108", "shared", "warn", lambda m: one(m, f"{ANY_PORT}/link_layer", "Ethernet")),
    ("PG109", "efa16", "warn", lambda m: m.remove("sys/class/infiniband/rdmap20s0")),
    ("PG109", "cx7", "warn", nics_nowhere),
    ("PG110", "cx7", "warn", lambda m: m.environ(CUDA_VISIBLE_DEVICES="1,0")),
    ("PG111", "cx7", "warn", lambda m: one(m, "sys/devices/pci0000:10/*/*/*/config", ACS)),
    ("PG111", "cx7", "warn", lambda m: one(m, f"{ANY_END}/iommu_group/type", "DMA-FQ")),
    ("PG112", "cx7", "fail", lambda m: one(m, f"{ANY_END}/current_link_width", 8)),
    ("PG112", "cx7", "warn", lambda m: one(m, f"{ANY_END}/current_link_speed", "2.5 GT/s PCIe")),
    ("PG113", "efa16", "warn", lambda m: m.environ(NCCL_IB_PCI_RELAXED_ORDERING="1")),
    ("PG114", "cx7", "warn", lambda m: m.change("sys/devices/**/traffic_class", "Global tclass=0")),
    ("PG114", "cx7", "warn", lambda m: one(m, "sys/devices/**/traffic_class", "Global tclass=0")),
    ("PG115", "efa16", "fail", lambda m: m.remove("opt/amazon/efa/lib/libfabric.so.1")),
    ("PG115", "efa16", "fail", lambda m: m.remove("sys/class/infiniband/rdmap20s0")),
    ("PG116", "container", "fail", lambda _: None),
    ("PG116", "cx7", "fail", nic_without_driver),
    ("PG116", "cx7", "fail", lambda m: m.remove("usr/lib/x86_64-linux-gnu/libibverbs.so.1")),
    ("PG116", "cx7", "fail", other_provider),
    ("PG116", "efa16", "warn", lambda m: m.remove("sys/class/infiniband/rdmap20s0")),
    ("PG116", "cx7", "warn", lambda m: m.remove("dev/infiniband/uverbs3")),
    ("PG117", "cx7", "warn", lambda m: m.write("proc/driver/nvidia/params", "EnableMSI: 1")),
    ("PG118", "cx7", "warn", bond),
    ("PG118", "cx7", "warn", bond_member_down),
    ("PG118", "efa16", "warn", lambda m: one(m, f"{ANY_PORT}/rate", "100 Gb/sec (4X EDR)")),
    ("PG119", "cx7", "fail", lambda m: one(m, f"{ANY_PORT}/phys_state", "6: LinkErrorRecovery")),
    ("PG120", "cx7", "warn", lambda m: m.status("0-7")),
    ("PG120", "efa16", "warn", lambda m: m.status("0-3,24-47")),
    ("PG121", "cx7", "warn", old_kernel),
    ("PG121", "cx7", "warn", lambda m: one(m, "sys/devices/**/fw_ver", "28.30.1")),
    ("PG122", "cx7", "warn", powersave),
    ("PG123", "cx7", "warn", no_huge_pages),
    ("PG124", "cx7", "warn", lambda m: m.remove("dev/gdrdrv")),
    ("PG125", "cx7", "fail", lambda m: one(m, f"{ANY_PORT}/state", "1: DOWN")),
]  # fmt: skip

EXPECTED = [
    ("PG104", {"memlock": 1 << 40}, "fail"),
    ("PG107", {"mtu": 8192}, "warn"),
    ("PG114", {"traffic_class": 26}, "warn"),
    ("PG118", {"link_gbit_s": 800}, "fail"),
    ("PG121", {"kernel": (6, 12)}, "warn"),
    ("PG122", {"governor": "powersave"}, "warn"),
    ("PG123", {"hugepages": 1}, "warn"),
    ("PG126", {"gpus": 9}, "fail"),
    ("PG126", {"nics": 9}, "fail"),
    ("PG126", {"nics_per_gpu": 2}, "fail"),
]

TRIED = [
    ("PG113", "ordering", "write 2 was counted before it was there"),
    ("PG127", "registration", "cannot register 2097152 bytes: ENOMEM"),
    ("PG128", "loopback", "nothing came of it within 20 s while writing 64K"),
]


GPUS = ("0000:13:00.0", "0000:2b:00.0")


def with_trials(facts, *bad: Trial):
    """All went well with two NICs and the GPU of each, except for these."""
    good = [
        Trial(what, f"mlx5_{i}", good=True, told="so")
        for what in ("registration", "loopback", "ordering")
        for i in range(2)
    ]
    good += [Trial("gpu_reach", f"mlx5_{i}", True, "so", GPUS[i]) for i in range(2)]
    spoilt = {(trial.what, trial.nic) for trial in bad}
    done = [trial for trial in good if (trial.what, trial.nic) not in spoilt]
    return replace(facts, trials=Trials("verbs", "there are RDMA devices", (*done, *bad)))


def with_libfabric(facts, provider="efa", lost=0, hmem=True):
    """It offers all adapters, but for the last few."""
    devices = facts.rdma[: len(facts.rdma) - lost]
    offers = tuple(
        Offer(provider, "efa", f"{device.name}-rdm", 1 << 30, 100_000, cq_data=True, hmem=hmem)
        for device in devices
    )
    return replace(facts, libfabric=Fact(Libfabric("1.17", offers), "fi_getinfo"))


def judge(root: Path, check: str, **expect: object):
    return find(check)(read_facts(str(root)), Expect(**expect))


def files(root: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.mark.parametrize(("check", "name", "verdict", "damage"), BAD)
def test_it_fires(copy, check, name, verdict, damage):
    machine = copy(name)
    before = files(machine.root)
    damage(machine)
    finding = judge(machine.root, check)
    assert (finding.verdict, finding.id) == (verdict, check)
    assert finding.evidence
    assert finding.fix

    # Whatever showed it is now gone: then it is unknown, which is never fine.
    now = files(machine.root)
    for path in before if now.keys() <= before.keys() else ():
        if now.get(path, before[path]) != before[path]:
            path.unlink()
            assert judge(machine.root, check).verdict != "pass"


@pytest.mark.parametrize("name", ["cx7", "efa32", "efa16", "shared"])
def test_a_healthy_machine_has_no_complaints(built, name):
    findings = run_checks(read_facts(str(built[name].root)), Expect(), {})
    assert [f for f in findings if f.verdict not in ("pass", "skip")] == []
    assert all(f.evidence for f in findings)


def test_what_can_be_fine_is_fine_somewhere(built):
    fine = {"PG126"}
    for name in ("cx7", "efa32"):
        findings = run_checks(
            with_libfabric(with_trials(read_facts(str(built[name].root)))), Expect(), {}
        )
        fine |= {f.id for f in findings if f.verdict == "pass"}
    assert fine == {check.id for check in CHECKS} - NEVER_PASS


@pytest.mark.parametrize(("check", "expect", "verdict"), EXPECTED)
def test_what_the_profile_expects(copy, check, expect, verdict):
    machine = copy("cx7")
    machine.limit_memlock(32 << 30)
    assert judge(machine.root, check, **expect).verdict == verdict


def with_drivers(facts, mtu=4096, max_mr=1 << 20, dmabuf=True):
    """What they say of the first NIC; the others are well."""

    def told(device, first):
        limits = Limits(1 << 63, max_mr if first else 1 << 20, *[5000] * 6, atomics=True)
        ports = tuple(
            replace(port, active_mtu=Fact(mtu if first else 4096, f"ibv_query_port {port.device}"))
            for port in device.ports
        )
        return replace(
            device,
            ports=ports,
            limits=Fact(limits, f"ibv_query_device {device.name}"),
            dmabuf=Fact(dmabuf or not first, f"ibv_reg_dmabuf_mr {device.name}"),
        )

    rdma = tuple(told(device, i == 0) for i, device in enumerate(facts.rdma))
    return replace(facts, rdma=rdma)


@pytest.mark.parametrize(
    ("check", "said", "verdict", "evidence"),
    [
        ("PG102", {"dmabuf": False}, "fail", "ibv_reg_dmabuf_mr mlx5_0: False, and none of"),
        ("PG105", {"max_mr": 100}, "warn", "ibv_query_device mlx5_0: max_mr 100"),
        ("PG107", {"mtu": 1024}, "warn", "ibv_query_port mlx5_0: 1024"),
    ],
)
def test_what_drivers_say_is_judged(copy, check, said, verdict, evidence):
    machine = copy("shared")
    machine.remove("sys/module/nvidia_peermem")
    facts = read_facts(str(machine.root))
    assert find(check)(with_drivers(facts), Expect()).verdict == "pass"
    finding = find(check)(with_drivers(facts, **said), Expect())
    assert finding.verdict == verdict
    assert evidence in finding.evidence
    assert finding.fix


def test_ports_of_different_mtus_that_would_each_do(built):
    facts = with_drivers(read_facts(str(built["shared"].root)), mtu=2048)
    finding = find("mtu")(facts, Expect(mtu=1024))
    assert finding.verdict == "warn"
    assert finding.evidence.startswith("they differ: ibv_query_port mlx5_0: 2048")


def test_drivers_that_do_not_answer(built):
    facts = replace(read_facts(str(built["shared"].root)), real=True)
    finding = find("mr_limits")(facts, Expect())
    assert finding.verdict == "skip"
    assert finding.evidence.startswith("ibv_query_device mlx5_0:1: unknown")


@pytest.mark.parametrize(
    ("offered", "verdict", "evidence"),
    [
        ({}, "pass", "libfabric 1.17 offers RMA over 16 adapters"),
        ({"provider": "tcp;ofi_rxm"}, "fail", "has no efa provider with RMA, only tcp;ofi_rxm"),
        ({"provider": "efa;ofi_rxd"}, "fail", "has no efa provider with RMA, only efa;ofi_rxd"),
        ({"lost": 16}, "fail", "has no efa provider with RMA, only nothing"),
        ({"lost": 1}, "warn", "offers 15 of 16 adapters"),
        ({"hmem": False}, "warn", "does not offer GPU memory"),
    ],
)
def test_what_libfabric_offers_over_efa(copy, offered, verdict, evidence):
    machine = copy("efa16")
    facts = with_libfabric(read_facts(str(machine.root)), **offered)
    finding = find("efa")(facts, Expect())
    assert finding.verdict == verdict
    assert evidence in finding.evidence
    assert bool(finding.fix) == (verdict != "pass")


def test_a_libfabric_that_did_not_answer_is_not_fine(copy):
    machine = copy("efa16")
    finding = judge(machine.root, "efa")
    assert (finding.verdict, finding.evidence) == (
        "skip",
        "fi_getinfo: unknown (not asked: the root is a copy)",
    )
    machine.remove("opt/amazon/efa/lib/libfabric.so.1")
    assert judge(machine.root, "efa").verdict == "fail"
    # It was found where nobody looked.
    facts = with_libfabric(read_facts(str(machine.root)))
    assert find("efa")(facts, Expect()).verdict == "pass"


@pytest.mark.parametrize(("check", "what", "told"), TRIED)
def test_what_was_tried_and_failed(built, check, what, told):
    facts = read_facts(str(built["cx7"].root))
    finding = find(check)(with_trials(facts, Trial(what, "mlx5_1", False, told)), Expect())
    assert (finding.verdict, finding.evidence) == ("fail", f"mlx5_1: {told}")
    assert finding.fix
    finding = find(check)(with_trials(facts), Expect())
    assert (finding.verdict, finding.evidence) == ("pass", "mlx5_0: so; mlx5_1: so")


def test_what_was_not_tried_is_not_fine(built):
    facts = read_facts(str(built["cx7"].root))
    bad = [Trial("registration", f"mlx5_{i}", False, "no") for i in range(2)]
    for done, why in (
        (bad, "not tried, as what comes before it failed on every NIC"),
        ([], "no NIC is meant"),
    ):
        trials = Trials("verbs", "", tuple(done))
        finding = find("loopback")(replace(facts, trials=trials), Expect())
        assert (finding.verdict, finding.evidence) == ("skip", why)


def test_what_polls_memory_is_warned_though_the_nic_keeps_the_order(copy):
    machine = copy("cx7")
    machine.environ(UCX_IB_PCI_RELAXED_ORDERING="on")
    facts = read_facts(str(machine.root))
    late = Trial("ordering", "mlx5_0", False, "late")
    assert find("ordering")(with_trials(facts), Expect()).verdict == "warn"
    assert find("ordering")(with_trials(facts, late), Expect()).verdict == "fail"


@pytest.mark.parametrize(
    "told",
    [
        "mlx5_1 cannot register 2097152 bytes of GPU memory: is nvidia_peermem loaded?",
        "2 of 2097152 bytes in the GPU differ, the first is 4096",
        "nothing came of it within 60 s while writing 2M into the GPU",
        "it crashed: SIGSEGV while registering 2M of the GPU",
    ],
)
def test_a_gpu_that_a_nic_does_not_reach(built, told):
    facts = read_facts(str(built["cx7"].root))
    bad = Trial("gpu_reach", "mlx5_1", False, told, GPUS[1])
    finding = find("gpu_reach")(with_trials(facts, bad), Expect())
    assert (finding.verdict, finding.evidence) == ("fail", f"mlx5_1 with {GPUS[1]}: {told}")
    for what in ("nvidia-peermem", "Linux 5.12", "ACS", "IOMMU"):
        assert what in finding.fix
    finding = find("gpu_reach")(with_trials(facts), Expect())
    assert (finding.verdict, finding.evidence) == (
        "pass",
        f"mlx5_0 with {GPUS[0]}: so; mlx5_1 with {GPUS[1]}: so",
    )


def test_a_gpu_that_could_not_be_tried_is_neither_fine_nor_bad(built):
    facts = read_facts(str(built["cx7"].root))
    busy = Trial("gpu_reach", "mlx5_1", None, "cuMemAlloc: CUDA_ERROR_OUT_OF_MEMORY", GPUS[1])
    finding = find("gpu_reach")(with_trials(facts, busy), Expect())
    assert (finding.verdict, finding.evidence) == (
        "skip",
        f"could not be tried: mlx5_1 with {GPUS[1]}: cuMemAlloc: CUDA_ERROR_OUT_OF_MEMORY",
    )
    bad = Trial("gpu_reach", "mlx5_0", False, "late", GPUS[0])
    assert find("gpu_reach")(with_trials(facts, busy, bad), Expect()).verdict == "fail"


def test_where_there_is_no_gpu_or_no_nic_there_is_none_to_reach(built, copy):
    trials = Trials("shm", "", (Trial("loopback", "shm0", True, "so"),))
    laptop = replace(read_facts(str(built["laptop"].root)), trials=trials)
    machine = copy("cx7")
    machine.remove("sys/class/infiniband")
    alone = replace(read_facts(str(machine.root)), trials=trials)
    for facts, why in ((laptop, "no GPU"), (alone, "no NIC that a GPU could use")):
        finding = find("gpu_reach")(facts, Expect())
        assert (finding.verdict, finding.evidence) == ("skip", why)


@pytest.mark.parametrize("check", [check.id for check in CHECKS])
def test_there_is_a_host_where_it_fires_and_one_where_it_does_not(built, check):
    """The latter is the former before it was damaged: it applies there."""
    hosts = {name for id_, name, *_ in BAD if id_ == check}
    hosts |= {"cx7" for id_, *_ in (*EXPECTED, *TRIED) if id_ == check}
    assert hosts, f"{check} fires nowhere: add a row to BAD, EXPECTED or TRIED"
    facts = [with_libfabric(read_facts(str(built[name].root))) for name in sorted(hosts)]
    findings = [find(check)(known, Expect(gpus=8)) for known in facts]
    quiet = [f for f in findings if f.verdict == "pass" or f.evidence in OPEN]
    assert quiet, f"{check} is quiet nowhere: {findings}"


def test_expectations_that_are_met(built):
    assert judge(built["cx7"].root, "inventory", gpus=8, nics=8, nics_per_gpu=1).verdict == "pass"


def test_of_an_empty_machine_nothing_is_fine(tmp_path):
    (tmp_path / "proc").mkdir()
    findings = run_checks(read_facts(str(tmp_path)), Expect(), {})
    assert {f.verdict for f in findings} == {"skip"}
    assert all(f.evidence for f in findings)


def test_of_another_machine_only_the_topology_is_judged(tmp_path):
    file = tmp_path / "cloud.xml"
    file.write_text("""\
<system><cpu numaid="0">
  <pci busid="0001:00:00.0" class="0x030200" vendor="0x10de"/>
  <pci busid="0101:00:00.0" class="0x020000" vendor="0x1d0f" device="0xefa1"/>
</cpu></system>""")
    findings = run_checks(read_facts(topology=str(file)), Expect(), {})
    assert [f.id for f in findings if f.verdict != "skip"] == ["PG109"]


def test_every_check_is_named_and_explained_once():
    assert len({c.id for c in CHECKS}) == len({c.name for c in CHECKS}) == len(CHECKS)
    for check in CHECKS:
        page = check.page()
        assert page.startswith(f"# {check.id}: {check.title}\n")
        assert "\n## Looks at\n" in page
        assert "\n## Fix\n" in page
        assert find(check.id.lower()) is find(check.name) is check


def test_severities_and_choices(copy):
    machine = copy("cx7")
    machine.limit_memlock(8 << 20)
    facts = read_facts(str(machine.root))
    memlock, mtu = find("memlock"), find("mtu")

    def verdicts(severities, only=(), without=()):
        checks = choose(severities, only, without)
        findings = run_checks(facts, Expect(), severities, checks)
        return {finding.id: finding.verdict for finding in findings}

    assert verdicts({"memlock": "warn"})["PG104"] == "warn"
    assert "PG104" not in verdicts({"memlock": "off"})
    assert "PG104" not in verdicts({}, without=(memlock,))
    assert verdicts({"memlock": "off", "mtu": "fail"}, only=(memlock, mtu)) == {
        "PG104": "fail",
        "PG107": "pass",
    }
    with pytest.raises(UnknownCheckError, match="'PG999' is no check"):
        find("PG999")


def test_a_spare_port_of_an_active_card_is_no_failure(copy):
    machine = copy("shared")
    nic = end(machine, "mlx5_core")
    machine.write(f"{nic}/infiniband/mlx5_0/ports/2/state", "1: DOWN")
    finding = judge(machine.root, "ports")
    assert finding.verdict == "warn"
    assert "mlx5_0/ports/2/state: DOWN" in finding.evidence


def test_enough_active_ports_are_no_failure(copy):
    machine = copy("cx7")
    one(machine, f"{ANY_PORT}/state", "1: DOWN")
    assert judge(machine.root, "ports", nics=7).verdict == "warn"
    assert judge(machine.root, "ports", nics=8).verdict == "fail"


def test_in_a_virtual_machine_the_host_decides_about_acs(copy):
    machine = copy("cx7")
    one(machine, "sys/devices/pci0000:10/*/*/*/config", ACS)
    machine.write("proc/cpuinfo", "model name : Xeon\nflags : fpu hypervisor")
    assert judge(machine.root, "acs").verdict == "skip"


def test_config_space_is_cut_short_for_all_but_root(copy):
    machine = copy("cx7")
    machine.change("sys/devices/pci*/*/*/config", "x" * 63)
    finding = judge(machine.root, "acs")
    assert finding.verdict == "skip"
    assert "64 bytes are readable; the rest is for root" in finding.evidence


def test_a_nic_without_a_node(copy):
    machine = copy("cx7")
    put(machine.root / machine.devices["0000:14:00.0"] / "numa_node", "-1")
    finding = judge(machine.root, "numa")
    assert finding.verdict == "skip"
    assert "the firmware does not say (-1)" in finding.evidence


def test_iwarp_is_over_ethernet_and_has_no_roce_addresses(copy):
    machine = copy("cx7")
    no_address(machine)
    machine.change("sys/devices/**/node_type", "4: RNIC")
    assert judge(machine.root, "gid").evidence == "no RoCE port"
    assert judge(machine.root, "mtu").verdict == "skip"


def test_a_port_without_an_interface_to_read(copy):
    machine = copy("cx7")
    machine.change("sys/devices/**/mlx5_0/ports/1/gid_attrs/ndevs/*", "gone0")
    finding = judge(machine.root, "mtu")
    assert finding.verdict == "skip"
    assert "mlx5_0/ports/1: its interface is unknown" in finding.evidence


def test_providers_that_cannot_be_listed(copy):
    machine = copy("cx7")
    machine.remove("etc/libibverbs.d")
    finding = judge(machine.root, "layers")
    assert (finding.verdict, finding.evidence) == (
        "skip",
        "/etc/libibverbs.d: unknown (not there)",
    )


def test_ids_that_a_container_may_not_see(copy):
    machine = copy("cx7")
    machine.remove("sys/devices/**/gid_attrs")
    assert judge(machine.root, "gid").verdict == "skip"


def test_memory_that_must_have_no_limit(copy):
    machine = copy("cx7")
    machine.limit_memlock(64 << 30)
    finding = judge(machine.root, "memlock", memlock=1 << 64)
    assert finding.verdict == "fail"
    assert finding.evidence.endswith("CAP_IPC_LOCK; no limit wanted for 8 NICs")


def test_a_capability_lifts_the_limit(copy):
    machine = copy("cx7")
    machine.limit_memlock(8 << 20)
    machine.status("0-63", capabilities="0000000000004000")
    assert judge(machine.root, "memlock").verdict == "pass"


def test_checks_read_facts_and_change_none(built):
    facts = read_facts(str(built["cx7"].root))
    first = run_checks(facts, Expect(), {})
    assert first == run_checks(replace(facts), Expect(), {})
