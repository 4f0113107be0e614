"""`pgctl probe` as a user meets it: what it prints, what it refuses, how it ends."""

import errno
import json
import os
import shutil
import subprocess
import sys
import textwrap
from importlib.resources import files
from pathlib import Path

import jsonschema
import pytest
from machines import IB, MELLANOX, Machine

from pgctl.checks.catalog import CHECKS
from pgctl.cli import cli
from pgctl.cli.status import run
from pgctl.hardware import facts
from pgctl.hardware.driver import Answers, Libfabric, Offer
from pgctl.hardware.root import Fact

SCHEMA = json.loads((files("pgctl.report") / "schema.json").read_text(encoding="utf-8"))
PGCTL = (sys.executable, "-P", "-m", "pgctl")
TOPOLOGY = """\
<system><cpu numaid="0" affinity="0000000f">
  <pci busid="ffff:ff:01.0" class="0x060400">
    <pci busid="0001:00:00.0" class="0x030200"/>
    <pci busid="0101:00:00.0" class="0x020700"/>
  </pci>
</cpu></system>"""


@pytest.fixture
def probe(capsys, monkeypatch):
    """What the command prints: stdout, and stderr where it ends in another status than 0 or 1."""
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("NO_COLOR", "1")

    def call(*args, status=0):
        found = run(cli, ["probe", *map(str, args)])
        out, err = capsys.readouterr()
        assert (found, err if status < 2 else "") == (status, "")
        return out if status < 2 else out + err

    return call


def test_under_a_launcher_the_first_rank_of_a_host_reports():
    mpirun = shutil.which("mpirun", path=Path(sys.executable).parent)
    if mpirun is None:
        pytest.skip("no mpirun beside this Python: pip install mpich")
    command = [mpirun, "-n", "3", *PGCTL, "probe", "--json", "-"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    jsonschema.validate(json.loads(done.stdout), SCHEMA)


# ---- What it prints


def test_a_healthy_machine(probe, built):
    assert probe("--sysroot", built["cx7"].root) == textwrap.dedent("""\
        probe          gpu01, Supermicro SYS-821GE, Linux 6.8.0-45-generic, not this
                       machine
        cpus           Xeon 8480C: 32 online, 2 NUMA nodes
        gpus           8 x NVIDIA H100 80GB HBM3
        nics           8 x 400 Gb/s Ethernet: mlx5_0 to mlx5_7

                      mlx5_0  mlx5_1  mlx5_2  mlx5_3  mlx5_4  mlx5_5  mlx5_6  mlx5_7
        0000:13:00.0  PIX     NODE    NODE    NODE    SYS     SYS     SYS     SYS
        0000:2b:00.0  NODE    PIX     NODE    NODE    SYS     SYS     SYS     SYS
        0000:43:00.0  NODE    NODE    PIX     NODE    SYS     SYS     SYS     SYS
        0000:5b:00.0  NODE    NODE    NODE    PIX     SYS     SYS     SYS     SYS
        0000:73:00.0  SYS     SYS     SYS     SYS     PIX     NODE    NODE    NODE
        0000:8b:00.0  SYS     SYS     SYS     SYS     NODE    PIX     NODE    NODE
        0000:a3:00.0  SYS     SYS     SYS     SYS     NODE    NODE    PIX     NODE
        0000:bb:00.0  SYS     SYS     SYS     SYS     NODE    NODE    NODE    PIX

        PIX one switch, PXB several, PHB host bridge, NODE NUMA node, SYS the machine

        GPU           NUMA  cpus  rails  NICs
        0000:13:00.0  0     0     0      mlx5_0 (PIX)
        0000:2b:00.0  0     1     1      mlx5_1 (PIX)
        0000:43:00.0  0     2     2      mlx5_2 (PIX)
        0000:5b:00.0  0     3     3      mlx5_3 (PIX)
        0000:73:00.0  1     8     4      mlx5_4 (PIX)
        0000:8b:00.0  1     9     5      mlx5_5 (PIX)
        0000:a3:00.0  1     10    6      mlx5_6 (PIX)
        0000:bb:00.0  1     11    7      mlx5_7 (PIX)

        checks         19 passed, 9 skipped
        skip           PG101, PG108: shows only while bytes move
                       PG103, PG113, PG127, PG128: shows only with --active
                       PG115: no EFA device
                       PG119: shows only as growth over time
                       PG126: no profile says what should be here
        """)


def test_a_laptop(probe, built):
    assert probe("--sysroot", built["laptop"].root, "--only", "affinity,versions,efa") == (
        textwrap.dedent("""\
        probe          gpu01, Supermicro SYS-821GE, Linux 6.8.0-45-generic, not this
                       machine
        cpus           Xeon 8480C: 8 online, 1 NUMA node
        gpus           none
        nics           no RDMA device; eno1

        group  NUMA  cpus  rails  NICs
        0      0     0     -      none: shared memory only

        checks         1 passed, 2 skipped
        skip           PG109: no GPU
                       PG115: no EFA device
        """)
    )


def test_what_libfabric_offers(probe, built, monkeypatch):
    pairs = [("tcp;ofi_rxm", "eth0"), ("tcp;ofi_rxm", "lo"), ("shm", "shm")]
    pairs += [("efa", f"rdmap{i}s0-rdm") for i in range(3)]
    offers = [Offer(name, "", domain, 1 << 30, 0, True, False) for name, domain in pairs]

    def says(*offers):
        known = Fact(Libfabric("1.17", offers), "fi_getinfo")
        monkeypatch.setattr(facts, "no_answers", lambda why: Answers({}, known, why))
        return probe("--sysroot", built["laptop"].root, "--only", "versions")

    assert textwrap.dedent("""\
        libfabric      1.17: tcp;ofi_rxm (eth0 lo), shm, efa (rdmap0s0-rdm to
                       rdmap2s0-rdm)
        """) in says(*offers)
    assert "libfabric      1.17: no provider with RMA\n" in says()
    says(*offers)
    record = json.loads(probe("--sysroot", built["laptop"].root, "--json", "-"))
    jsonschema.validate(record, SCHEMA)
    assert record["hardware"]["libfabric"]["offers"][1]["domain"] == "lo"


def test_only_what_is_wrong(probe, built, copy):
    assert probe("--sysroot", built["cx7"].root, "-q") == ""
    assert probe("--sysroot", built["container"].root, "-q", status=1) == textwrap.dedent("""\
        fail           PG116 layers of RDMA: cannot be opened: /dev/infiniband/uverbs0:
                       not there; /dev/infiniband/uverbs1: not there;
                       /dev/infiniband/uverbs2: not there; and 5 more; this is a Docker
                       container
          fix          docker run --device /dev/infiniband; in Kubernetes, ask the RDMA
                       device plugin
        """)
    machine = copy("shared")
    machine.change("sys/devices/system/cpu/cpu*/cpufreq/scaling_governor", "powersave")
    out = probe("--sysroot", machine.root, "-q")
    assert out == textwrap.dedent("""\
        warn           PG122 CPU governor:
                       /sys/devices/system/cpu/cpu0/cpufreq/scaling_governor: powersave
                       (32 of 32 cpus)
          fix          cpupower frequency-set -g performance
        """)


def test_the_worst_comes_first(probe, copy):
    machine = copy("cx7")
    machine.limit_memlock(8 << 20)
    machine.environ(CUDA_VISIBLE_DEVICES="1,0")
    machine.change("sys/devices/**/mlx5_3/ports/1/phys_state", "6: LinkErrorRecovery")
    lines = probe("--sysroot", machine.root, "-v", status=1).splitlines()
    heads = [line[:20].split() for line in lines if line.startswith(("fail", "warn", "pass"))]
    assert heads[:3] == [["fail", "PG104"], ["fail", "PG119"], ["warn", "PG110"]]
    assert {verdict for verdict, _ in heads[3:]} == {"pass"}
    assert "checks         17 passed, 1 warned, 2 failed, 8 skipped" in lines


def test_names_in_between_are_left_out_where_they_do_not_fit(probe, built, monkeypatch):
    out = probe("--sysroot", built["efa32"].root, "--only", "affinity")
    assert max(map(len, out.splitlines())) <= 80
    assert "0000:bb:00.0  1     36-39  28-31  rdmap188s0 to rdmap191s0 (PIX)\n" in out
    monkeypatch.setenv("COLUMNS", "160")
    out = probe("--sysroot", built["efa32"].root, "--only", "affinity")
    assert "rdmap188s0 rdmap189s0 rdmap190s0 rdmap191s0 (PIX)\n" in out
    assert out.count("rdmap188s0+3") == 1


def test_a_picture(probe, tmp_path):
    machine = Machine(tmp_path)
    machine.host(sockets=1)
    bridge = machine.host_bridge(0)
    machine.gpu(bridge, "0000:00:01.0", numa=0)
    machine.rdma(machine.pci(bridge, "0000:00:02.0", IB, MELLANOX, 1, numa=0), "m", gbit_s=1)
    assert probe("--sysroot", tmp_path, "--dot", "-", "--only", "versions") == textwrap.dedent("""\
        graph pci {
          rankdir=LR; compound=true; node [shape=box, fontname=sans];
          subgraph "cluster NUMA node 0" {
            label="NUMA node 0";
            "pci0000:00" [shape=ellipse, color=gray];
            "0000:00:01.0" [label="NVIDIA H100 80GB HBM3\\n0000:00:01.0", style=filled, \
fillcolor=palegreen];
            "0000:00:02.0" [label="m\\n0000:00:02.0", style=filled, fillcolor=lightblue];
          }
          "pci0000:00" -- "0000:00:01.0";
          "pci0000:00" -- "0000:00:02.0";
          "0000:00:01.0" -- "0000:00:02.0" [style=dashed, constraint=false];
        }
        """)


def test_the_list_and_the_pages(probe):
    lines = probe("--list").splitlines()
    assert [line.split()[:2] for line in lines] == [[c.id, c.name] for c in CHECKS]
    assert lines[6] == "PG107  mtu             MTU"
    page = probe("--explain", "pg107")
    assert page == probe("--explain", "mtu")
    assert page.startswith("# PG107: MTU\n")
    assert "ip link set NETDEV mtu 9000" in page
    assert probe("--explain", "mtu,efa") == f"{page}\n{probe('--explain', 'efa')}"


# ---- JSON


@pytest.mark.parametrize("name", ["cx7", "efa32", "efa16", "shared", "laptop", "container"])
def test_json_on_stdout_is_all_that_is_there(probe, built, name):
    status = 1 if name == "container" else 0
    record = json.loads(probe("--sysroot", built[name].root, "--json", "-", status=status))
    jsonschema.validate(record, SCHEMA)
    assert record["schema"] == "pgctl.result/1"
    assert record["command"] == "probe"
    assert record["verdict"] == ("fail" if status else "pass")
    assert [finding["id"] for finding in record["findings"]] == [check.id for check in CHECKS]


def test_the_record_of_a_machine(probe, built):
    record = json.loads(probe("--sysroot", built["shared"].root, "--json", "-"))
    assert record["domain_groups"][2] == {
        "gpu": "0000:2b:00.0",
        "numa": 0,
        "nics": ["mlx5_1"],
        "cpus": [2],
        "rails": [1],
        "closeness": ["PIX"],
        "shared": ["mlx5_1"],
    }
    hardware = record["hardware"]
    assert hardware["affinity"]["0000:2b:00.0"] == {
        "mlx5_0": "NODE",
        "mlx5_1": "PIX",
        "mlx5_2": "SYS",
        "mlx5_3": "SYS",
    }
    assert hardware["system"]["memlock"] == "unlimited"
    assert record["fabric"]["nics"][1] == {
        "name": "mlx5_1",
        "pci": "0000:2d:00.0",
        "link_gbit_s": 200.0,
        "counters_delta": {},
    }
    unknown = {item["source"]: item["why"] for item in hardware["unknown"]}
    assert unknown["/sys/class/infiniband/mlx5_1/ports/1/active_mtu"] == "sysfs does not have it"


def test_json_in_a_file_leaves_the_report(probe, built, tmp_path):
    target = tmp_path / "out.json"
    out = probe("--sysroot", built["cx7"].root, "--json", target)
    assert "19 passed" in out
    assert json.loads(target.read_text())["run"]["parameters"]["sysroot"] == str(built["cx7"].root)


# ---- What it is told


def test_a_profile(probe, copy, tmp_path):
    profile = tmp_path / "fabric.yaml"
    profile.write_text("expect: {gpus: 8, nics: 16}\nchecks: {memlock: warn, efa: off}\n")
    machine = copy("cx7")
    machine.limit_memlock(8 << 20)
    out = probe("--sysroot", machine.root, "--profile", profile, "-q", status=1)
    assert [line[:20] for line in out.splitlines() if line[:1] != " "] == [
        "fail           PG126",
        "warn           PG104",
    ]
    assert "nics: 8, expected 16" in out
    assert probe("--sysroot", machine.root, "--profile", profile, "--skip", "inventory", "-q")


def test_a_topology_of_another_machine(probe, tmp_path):
    file = tmp_path / "cloud.xml"
    file.write_text(TOPOLOGY)
    out = probe("--topology", file, "--only", "affinity,memlock")
    assert "              0101:00:00.0\n0001:00:00.0  PIX\n" in out
    assert "0001:00:00.0  0     0     0      0101:00:00.0 (PIX)\n" in out
    assert "PG104: the topology file is of another machine" in out


def test_choices(probe, built):
    root = built["cx7"].root
    args = ("--nics", "^mlx5_0", "--gpus", "13:00.0", "--nics-per-gpu", 2, "--json", "-")
    record = json.loads(probe("--sysroot", root, *args))
    assert [(g["gpu"], g["nics"]) for g in record["domain_groups"]] == [
        ("0000:13:00.0", ["mlx5_1", "mlx5_2"])
    ]


def test_nothing_to_check_here_is_a_skip(probe, built):
    assert "PG115: no EFA" in probe("--sysroot", built["laptop"].root, "--only", "efa", status=77)


def test_nothing_to_check_at_all_is_no_pass(probe, built):
    args = ("--only", "memlock", "--skip", "memlock")
    assert "checks         none\n" in probe("--sysroot", built["cx7"].root, *args, status=77)


def test_a_reader_that_has_left():
    """It ends as SIGPIPE would end it."""
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer) as stdout:
        command = [*PGCTL, "probe", "--only", "versions"]
        done = subprocess.run(command, stdout=stdout, stderr=subprocess.PIPE, check=False)
    assert (done.returncode, done.stderr) == (141, b"")


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&-"])
def test_a_stream_that_is_closed(closed):
    command = f"{' '.join(PGCTL)} probe --only versions {closed}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, check=False, text=True)
    assert (done.returncode, done.stderr) == (0, "")


WATCHED = """\
import sys
from pgctl.cli import cli
from pgctl.cli.status import run

WRITES = {"os." + name for name in "chmod chown link mkdir remove rename rmdir symlink".split()}


def watch(event, args):
    written = event == "open" and isinstance(args[2], int) and args[2] & 3
    if event in WRITES or (written and not str(args[0]).startswith("/dev/")):
        print(event, *args, file=sys.stderr)


sys.addaudithook(watch)
run(cli, ["probe"])
"""


def test_it_writes_nowhere():
    """Devices are opened to read and write, to see whether they can be."""
    watched = [sys.executable, "-P", "-B", "-c", WATCHED]
    done = subprocess.run(watched, capture_output=True, check=True, text=True)
    assert done.stdout.startswith("probe ")
    assert done.stderr == ""


def test_roots_that_are_broken(probe, tmp_path):
    """Not one of them is a machine, and none is a traceback."""
    for name in ("truncated", "cyclic", "files", "unreadable"):
        (tmp_path / name / "sys/class").mkdir(parents=True)
    for path in ("sys/bus/pci/devices/0000:00:00.0", "proc/cpuinfo"):
        file = tmp_path / "truncated" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    (tmp_path / "cyclic/sys/class/infiniband").symlink_to("infiniband")
    (tmp_path / "cyclic/sys/class/net").symlink_to("../class")
    (tmp_path / "cyclic/proc").symlink_to(".")
    (tmp_path / "files/sys/class/infiniband").write_bytes(b"\0\xff" * 9)
    (tmp_path / "unreadable/sys/class").chmod(0)
    for name in ("truncated", "cyclic", "files", "unreadable"):
        record = json.loads(probe("--sysroot", tmp_path / name, "--json", "-", status=77))
        jsonschema.validate(record, SCHEMA)
    (tmp_path / "unreadable/sys/class").chmod(0o700)


# ---- What it refuses


@pytest.mark.parametrize(
    ("args", "reason"),
    [
        ("--nics mlx5_9", "--nics: 'mlx5_9' is no NIC of this machine: mlx5_0, mlx5_1"),
        ("--gpus 1", "--gpus: '1' is not a PCI address"),
        ("--nics =mlx5_1 --nics-per-gpu 2", "--nics-per-gpu: 2 NICs for each GPU, but 1 can be"),
        ("--nics-per-gpu 5", "5 is too much: at most 4"),
        ("--only PG999", "--only: 'PG999' is no check: see --list"),
        ("--skip mtu,", "--skip: '' is no check"),
        ("--explain x", "--explain: 'x' is no check"),
        ("--explain=", "--explain: '' is no check"),
        ("--only=", "--only: '' is no check"),
        ("--list -q", "--list and --explain stand alone"),
        ("-q -v", "-q and -v exclude each other"),
        ("--json - --dot -", "--json and --dot cannot both have stdout"),
        ("--json /nowhere/x", "cannot write '/nowhere/x'"),
        ("--sysroot /nowhere", "'/nowhere' does not exist"),
        ("--topology BAD", "bad.xml:1: expected <system>, not <a>"),
        ("--profile BAD", "bad.xml:1: the profile: expected a mapping"),
        ("--profile /nowhere", "'/nowhere' does not exist"),
        ("--active", "--active: only NICs of this machine can be tried"),
        ("--transport shm", "--transport is what --active tries NICs with"),
        ("--active --transport pigeons", "'pigeons' is not one of"),
    ],
)
def test_usage(probe, built, tmp_path, args, reason):
    bad = tmp_path / "bad.xml"
    bad.write_text("<a/>")
    given = [str(bad) if arg == "BAD" else arg for arg in args.split()]
    root = () if "--sysroot" in given or "--list" in given else ("--sysroot", built["cx7"].root)
    if given[0].startswith("--explain"):
        root = ()
    out = probe(*root, *given, status=2)
    assert reason in out.replace("\n", "")
    assert "Traceback" not in out


def test_a_root_with_nothing_in_it_could_not_be_probed(probe, tmp_path):
    assert probe("--sysroot", tmp_path, status=3) == (
        f"pgctl: {tmp_path} has neither sys nor proc: there is nothing to read\n"
    )


def test_a_root_that_cannot_be_read(probe, tmp_path, monkeypatch):
    def refuse(_):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("pgctl.hardware.root.os.listdir", refuse)
    assert probe("--sysroot", tmp_path, status=3) == (
        f"pgctl: {tmp_path}: permission denied, EACCES\n"
    )


# ---- The machine that the tests run on

TRIALS = ("--active", "--only", "registration,loopback,ordering")


def test_trials_of_this_machine(probe):
    record = json.loads(probe(*TRIALS, "--transport", "shm", "--json", "-"))
    jsonschema.validate(record, SCHEMA)
    assert record["run"]["parameters"]["active"] is True
    assert (record["fabric"]["transport"], record["fabric"]["why"]) == ("shm", "--transport shm")
    assert [(t["what"], t["nic"], t["good"]) for t in record["hardware"]["trials"]["done"]] == [
        ("registration", "shm0", True),
        ("loopback", "shm0", True),
        ("ordering", "shm0", True),
    ]
    assert {f["id"]: f["verdict"] for f in record["findings"]} == {
        "PG127": "pass",
        "PG128": "pass",
        "PG113": "pass",
    }


def test_a_trial_that_crashes_is_a_finding(probe, monkeypatch):
    monkeypatch.setenv("PGCTL_IMPAIR", "kill=rank@0ns")
    out = probe(*TRIALS, "--transport", "shm", status=1)
    assert "tried          shm, --transport shm\n" in out
    assert "checks         1 passed, 1 failed, 1 skipped\n" in out
    said = " ".join(out.split())
    assert "PG128 writes through each NIC: shm0: it crashed: SIGKILL while writing 64K" in said
    assert "PG113: not tried, as what comes before it failed on every NIC" in said


def test_without_active_nothing_is_tried(probe):
    record = json.loads(probe("--only", "loopback,ordering", "--json", "-", status=77))
    assert record["hardware"]["trials"] is None
    assert record["fabric"]["transport"] == "none"


def test_this_machine():
    """Whatever it is, there is a report and no complaint about the tool itself."""
    done = subprocess.run([*PGCTL, "probe", "--json", "-"], capture_output=True, check=False)
    assert done.returncode in (0, 1, 77)
    assert done.stderr == b""
    record = json.loads(done.stdout)
    jsonschema.validate(record, SCHEMA)
    assert record["hardware"]["real"] is True


def test_what_importing_the_command_line_does_not_bring():
    heavy = "{'yaml', 'numpy', 'rich', 'pgctl._ffi', 'pgctl.checks', 'pgctl.hardware'}"
    code = f"import sys, pgctl.cli; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    assert done.stdout == "[]\n"
