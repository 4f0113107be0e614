"""`pgctl bench` as a user meets it: what it prints, what it refuses, how it ends.

Whole outputs are compared over made-up records; real processes show everything else.
"""

import json
import os
import pty
import select
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from pgctl.bench.spec import AS_GROUPED, Spec
from pgctl.cli import cli
from pgctl.cli.benchmark import Request, Show
from pgctl.cli.status import BY_VERDICT, run
from pgctl.engine import FabricFacts, PgUnsupported, fabric_facts
from pgctl.report.console import Terminal
from pgctl.report.record import Fabric, Finding, Nic, Port, Record, Result, Run

PATIENCE_S = 60
PGCTL = (sys.executable, "-P", "-m", "pgctl")
MPIRUN = shutil.which("mpirun", path=Path(sys.executable).parent)
SCHEMA = json.loads((files("pgctl.report") / "schema.json").read_text(encoding="utf-8"))
OPERATIONS = ("write", "paged", "scatter", "barrier", "send")
QUICK = ("-n", "3", "-N", "1", "-T", "20")

# ---- What it prints, of made-up records


def result(test: str, size: int, gbyte_s: float, mop_s: float, us: float) -> Result:
    metrics = {
        "bw_gbyte_s": {"p50": gbyte_s},
        "bw_gbit_s": {"p50": 8 * gbyte_s},
        "rate_mop_s": {"p50": mop_s},
        "lat_us": {"p50": us, "p99": 2 * us},
    }
    if size >= 4096:
        metrics["bw_pct_line_rate"] = {"p50": 96.4}
    return Result(test=test, size=size, iters=1000, pair=(0, 1), metrics=metrics)


def record(spec: Spec, *results: Result, ranks: int = 2) -> Record:
    nics = [count or 1 for count in spec.nics(ranks)]
    return Record(
        command=spec.command,
        verdict="pass",
        run=Run(
            argv=("pgctl",),
            started="2026-01-02T03:04:05+00:00",
            host="gpu01",
            ranks=ranks,
            versions={},
            seed=0,
            cpus=tuple(range(ranks)) if set(nics) == {1} else (None,) * ranks,
            parameters=spec.parameters(ranks),
        ),
        fabric=Fabric(
            "shm",
            "all ranks are on this host",
            tuple(Nic(f"shm{i}", None, 0) for i in range(nics[0])),
            nics_by_rank=tuple(tuple(f"shm{i}" for i in range(n)) for n in nics),
            progress=tuple("inline" if n == 1 else "worker" for n in nics),
        ),
        results=results,
        limits={"cacheline_oneway_us": 0.139},
    )


def three_writes(spec: Spec) -> Record:
    sizes = [(8, 0.1112, 13.9, 0.205), (65536, 38.94, 0.5942, 1.92), (1 << 20, 24.8, 0.0237, 45)]
    made = record(spec, *(result("bench.write", *figures) for figures in sizes))
    memcpy = {"65536": 40.4, "1048576": 25.2}
    return replace(made, limits={**made.limits, "memcpy_gbyte_s": memcpy})


@pytest.fixture
def shown(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., str]:
    """What a command prints to stdout when its run comes to a made-up record."""
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("NO_COLOR", "1")

    def show(made: Callable[[Spec], Record], *args: str, status: int = 0) -> str:
        def instead(request: Request, _: Terminal, show: Show) -> int:
            made_up = made(request.spec)
            show(made_up)
            return BY_VERDICT[made_up.verdict]

        assert run(cli, ["bench", *args], instead) == status
        out, err = capsys.readouterr()
        assert err == ""
        return out

    return show


def test_a_sweep(shown: Callable[..., str]) -> None:
    assert shown(three_writes, "write") == textwrap.dedent("""\
        bench write    2 ranks on gpu01, pinned to cores 0 and 1
        transport      shm (shm0), inline progress; all ranks are on this host
        memory         engine memory, pre-faulted, hot (the same bytes each time)
        traffic        up to 64 writes in flight, each counted by the receiver

            size      GB/s      Gb/s     Mop/s    p50 µs    p99 µs  of limit
               8     0.111     0.890   13.9        0.205     0.410         -
             64K    38.9     312        0.594      1.92      3.84       96 %
              1M    24.8     198        0.0237    45.0      90.0        96 %

        limits         memcpy, hot: 40.4 GB/s at 64K, 25.2 GB/s at 1M
                       a cache line, there and seen: 0.139 µs
        latency        8 one way, half a round trip: 0.205 µs, 1.47 times the cache line
        verified       no, as --no-check asked
        """)


def test_only_the_figures(shown: Callable[..., str]) -> None:
    lines = shown(three_writes, "write", "-q").splitlines()
    assert [line.split()[0] for line in lines] == ["size", "8", "64K", "1M"]


def test_json_on_stdout_is_all_that_is_there(shown: Callable[..., str]) -> None:
    document = json.loads(shown(three_writes, "write", "--json", "-"))
    jsonschema.validate(document, SCHEMA)
    assert [size["size"] for size in document["results"]] == [8, 65536, 1 << 20]


def test_json_in_a_file_leaves_the_table(shown: Callable[..., str], tmp_path: Path) -> None:
    target = tmp_path / "out.json"
    assert "64K" in shown(three_writes, "write", "--json", str(target))
    jsonschema.validate(json.loads(target.read_text()), SCHEMA)


def test_what_was_asked_is_said(shown: Callable[..., str]) -> None:
    flags = ("--window", "1", "--bidirectional", "--no-imm", "--touch", "marching")
    out = shown(three_writes, "write", *flags, "--memory", "registered")
    assert out[: out.index("\n\n")] == textwrap.dedent("""\
        bench write    2 ranks on gpu01, pinned to cores 0 and 1
        transport      shm (shm0), inline progress; all ranks are on this host
        memory         registered memory, pre-faulted, marching through 256M
        traffic        1 write in flight each way, both directions added, complete at
                       the sender""")


def test_what_went_wrong_on_purpose_is_said(shown: Callable[..., str]) -> None:
    def made(spec: Spec) -> Record:
        came = three_writes(spec)
        lost = {"failovers": 2, "retries": 0}, {"failovers": 1, "retries": 7}, {"retries": 30}
        nics = tuple(Nic(f"shm{i}", None, 0, counters) for i, counters in enumerate(lost))
        return replace(came, fabric=replace(came.fabric, nics=nics, impair=spec.impair))

    out = shown(made, "write", "--impair", "fail=0.01,kill=nic0@0.3s", "--nics-per-rank", "3")
    assert "\nimpaired       fail=0.01,kill=nic0@0.3s, seed 0\n" in out
    assert out[out.index("failovers") :].startswith(
        textwrap.dedent("""\
        failovers      2 connections of shm0 and 1 connection of shm1 broke; 37 work
                       requests were sent again by others
        """)
    )


def test_where_nothing_broke_nothing_is_said(shown: Callable[..., str]) -> None:
    def made(spec: Spec) -> Record:
        came = three_writes(spec)
        nics = (Nic("shm0", None, 0, {"failovers": 0, "retries": 0}),)
        return replace(came, fabric=replace(came.fabric, nics=nics))

    assert "failovers" not in shown(made, "write")


def over_rdma(spec: Spec) -> Record:
    came = three_writes(spec)
    ports = (
        Port("gpu01", "mlx5_0", (0,), 10**9, 1_020_000_000, 12_300_000),
        Port("gpu01", "mlx5_1", (1,), 0, None, None),
        Port("gpu01", "mlx5_2", (), 0, 77_000, 0),
    )
    elsewhere = "mlx5_0 of gpu01 has sent 0 B of 1.00 GB"
    fabric = Fabric(
        "verbs",
        "--transport verbs",
        (Nic("mlx5_0", "0000:18:00.0", 400),),
        path="RC from mlx5_0 to 192.0.2.2, MTU 4096",
        nics_by_rank=(("mlx5_0",), ("mlx5_1",)),
        groups_by_rank=("0000:18:00.0", "0000:2a:00.0"),
        progress=("inline", "inline"),
        options=spec.nic_options["verbs"],
        ports=ports,
    )
    found = Finding("PG202", "warn", "traffic went elsewhere", elsewhere, "")
    limits = {"link_gbyte_s": {"65536": 50.0, "1048576": 50.0}}
    return replace(came, fabric=fabric, limits=limits, findings=(found,))


def test_rdma_devices(shown: Callable[..., str]) -> None:
    out = shown(over_rdma, "write", "--transport", "verbs", "--gid-index", "3")
    head, _, foot = out.split("\n\n")
    assert head == textwrap.dedent("""\
        bench write    2 ranks on gpu01, pinned to cores 0 and 1
        transport      verbs (mlx5_0 / mlx5_1; gid=3), inline progress; --transport
                       verbs
        groups         GPU 0000:18:00.0 / 0000:2a:00.0, as pgctl probe prints them
        memory         engine memory, pre-faulted, hot (the same bytes each time)
        path           RC from mlx5_0 to 192.0.2.2, MTU 4096
        traffic        up to 64 writes in flight, each counted by the receiver""")
    assert foot == textwrap.dedent("""\
        limits         the links of a rank: 50.0 GB/s
        wire           mlx5_0: 1.02 GB out, payload 1.00 GB; 12.3 MB in
                       mlx5_1: no payload out; it does not count what it sends
                       mlx5_2: 77.0 kB out; 0 B in; no rank uses it
        warn           traffic went elsewhere: mlx5_0 of gpu01 has sent 0 B of 1.00 GB
        verified       no, as --no-check asked
        """)


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (("0", "1"), "group 0 / 1, as pgctl probe prints them"),
        (("0", "0", "0"), "group 0 at each rank, as pgctl probe prints it"),
        (("18:00.0", "2a:00.0") * 8, "2 GPUs, as pgctl probe prints them"),
    ],
)
def test_whose_nics_ranks_have(
    shown: Callable[..., str], names: tuple[str, ...], said: str
) -> None:
    def made(spec: Spec) -> Record:
        came = over_rdma(spec)
        return replace(came, fabric=replace(came.fabric, groups_by_rank=names))

    out = shown(made, "write", "--transport", "verbs", "--gid-index", "3")
    assert f"\ngroups         {said}\n" in out


def test_a_nic_of_libfabric(shown: Callable[..., str]) -> None:
    def made(spec: Spec) -> Record:
        came = three_writes(spec)
        fabric = Fabric(
            "ofi",
            "--provider is for libfabric",
            (Nic("ofi0", None, 0),),
            path="libfabric 2.6 tcp (asked for) from eth0 to 192.0.2.2",
            nics_by_rank=(("ofi0",), ("ofi0",)),
            progress=("inline", "inline"),
            options=spec.nic_options["ofi"],
        )
        return replace(came, fabric=fabric)

    out = shown(made, "write", "--provider", "tcp")
    assert out[: out.index("\n\n")] == textwrap.dedent("""\
        bench write    2 ranks on gpu01, pinned to cores 0 and 1
        transport      ofi (ofi0; provider=tcp), inline progress; --provider is for
                       libfabric
        memory         engine memory, pre-faulted, hot (the same bytes each time)
        path           libfabric 2.6 tcp (asked for) from eth0 to 192.0.2.2
        traffic        up to 64 writes in flight, each counted by the receiver""")


def with_threads(spec: Spec) -> Record:
    made = three_writes(spec)
    by_threads = {"65536": 87.2, "1048576": 101.6, "33554432": 19.7}
    return replace(made, limits={**made.limits, "memcpy_threads_gbyte_s": by_threads})


def test_ranks_with_different_nics(shown: Callable[..., str]) -> None:
    assert shown(with_threads, "write", "--nics-per-rank", "4,1") == textwrap.dedent("""\
        bench write    2 ranks on gpu01, not pinned
        transport      shm (4 NICs against 1: shm0..shm3 / shm0), worker progress at
                       rank 0, inline at rank 1; all ranks are on this host
        memory         engine memory, pre-faulted, hot (the same bytes each time)
        traffic        up to 64 writes in flight, each counted by the receiver

            size      GB/s      Gb/s     Mop/s    p50 µs    p99 µs  of limit
               8     0.111     0.890   13.9        0.205     0.410         -
             64K    38.9     312        0.594      1.92      3.84       96 %
              1M    24.8     198        0.0237    45.0      90.0        96 %

        limits         memcpy, hot: 40.4 GB/s at 64K, 25.2 GB/s at 1M
                       memcpy by 4 threads, hot: 87.2 GB/s at 64K, 102 GB/s at 1M,
                       19.7 GB/s at 32M
                       a cache line, there and seen: 0.139 µs
        latency        8 one way, half a round trip: 0.205 µs, 1.47 times the cache line
        verified       no, as --no-check asked
        """)


@pytest.mark.parametrize(
    ("nics", "names", "progress"),
    [
        ("2", "shm0 and shm1", "worker progress"),
        ("2,3", "2 NICs against 3: shm0..shm1 / shm0..shm2", "worker progress"),
        (
            "1,4",
            "1 NIC against 4: shm0 / shm0..shm3",
            "inline progress at rank 0, worker at rank 1",
        ),
        (
            "4,2,1",
            "4, 2 and 1 NICs: shm0..shm3 / shm0..shm1 / shm0",
            "worker progress at ranks 0 and 1, inline at rank 2",
        ),
        ("1,1,1,1,2,2,2,2,4", "1 to 4 NICs each", "inline progress at 4 ranks, worker at 5 ranks"),
    ],
)
def test_who_has_what_is_said(
    shown: Callable[..., str], nics: str, names: str, progress: str
) -> None:
    def made(spec: Spec) -> Record:
        ranks = max(2, len(spec.nics_per_rank))
        return record(spec, Result("bench.barrier", 0, 1000, {}), ranks=ranks)

    out = " ".join(shown(made, "barrier", "--nics-per-rank", nics).split())
    assert f" transport shm ({names}), {progress}; all ranks are on this host " in out


@pytest.mark.parametrize(
    ("args", "threads"),
    [("4,1", "4"), ("2", "2"), ("2 --bidirectional", "2"), ("1,4 --bidirectional", "1 and 4")],
)
def test_the_threads_of_those_who_send_are_counted(
    shown: Callable[..., str], args: str, threads: str
) -> None:
    out = shown(with_threads, "write", "--nics-per-rank", *args.split())
    assert f" memcpy by {threads} threads, hot: " in out


def test_a_barrier(shown: Callable[..., str]) -> None:
    def made(spec: Spec) -> Record:
        us = {"min": 0.21, "p50": 0.354, "p90": 0.41, "p99": 0.55, "p99.9": 7.31, "max": 25.66}
        return record(spec, Result("bench.barrier", 0, 1000, {"lat_us": us}))

    assert shown(made, "barrier") == textwrap.dedent("""\
        bench barrier  2 ranks on gpu01, pinned to cores 0 and 1
        transport      shm (shm0), inline progress; all ranks are on this host

          min µs    p50 µs    p90 µs    p99 µs  p99.9 µs    max µs
           0.210     0.354     0.410     0.550      7.31      25.7

        limits         a cache line, there and seen: 0.139 µs
        latency        a barrier: 0.354 µs, 2.55 times the cache line
        """)


def test_changed_payload_is_a_failure(shown: Callable[..., str]) -> None:
    def made(spec: Spec) -> Record:
        bad = replace(result("bench.write", 8, 0.1, 13.9, 0.2), verified=False)
        finding = Finding("PG201", "fail", "payload arrived changed", "byte 3 at rank 1", "")
        return replace(record(spec, bad), verdict="fail", findings=(finding,))

    out = shown(made, "write", "-c", "--sizes", "8", status=1)
    assert out.splitlines()[-2:] == [
        "fail           payload arrived changed: byte 3 at rank 1",
        "verified       WRONG at 8",
    ]


def test_what_was_measured_before_an_error_is_shown(shown: Callable[..., str]) -> None:
    def made(spec: Spec) -> Record:
        return replace(three_writes(spec), verdict="error", error="the peer is down")

    out = shown(made, "write", status=3)
    assert out.splitlines()[-1] == "incomplete     3 of 24 sizes measured: the peer is down"


# ---- What it refuses


@pytest.mark.parametrize(
    ("args", "reason"),
    [
        ("write --sizes 0", "'0' is not a size: it must be at least 1 byte"),
        ("write --sizes 4Q", "'4Q' is not a size"),
        ("write --sizes 4K,4096", "names 4K twice"),
        ("write --sizes 4K -e 1M", "--sizes names the sizes, so -e cannot apply"),
        ("write -b 1M -e 4K", "-b 1M is above -e 4K"),
        ("write -e x", "'x' is not a size"),
        ("write -f 1", "1 is too little: at least 2"),
        ("write -n 0", "0 is too little: at least 1"),
        ("write -n x", "'x' is not a whole number"),
        ("write -n 5 -D 1", "give one of them"),
        ("write -D 0", "'0' is not a number of seconds above 0"),
        ("write -T nan", "'nan' is not a number of seconds above 0"),
        ("write -N 0", "0 is too little"),
        ("write --window 4096", "4096 is too much: at most 1024"),
        ("write -r 1", "bench write is between 2 ranks, not 1"),
        ("write -r 3", "bench write is between 2 ranks, not 3"),
        ("scatter -r 1", "bench scatter needs at least 2 ranks, not 1"),
        ("barrier -r 1", "bench barrier needs at least 2 ranks, not 1"),
        ("barrier --sizes 4K", "No such option '--sizes'"),
        ("barrier -c", "No such option '-c'"),
        ("send --memory registered", "No such option '--memory'"),
        ("write --pages 3", "No such option '--pages'"),
        ("scatter --bidirectional", "No such option '--bidirectional'"),
        ("send -e 8K", "a message holds at most 4K, not 8K"),
        ("write --nics-per-rank 5", "5 is too much: at most 4"),
        ("write --nics-per-rank 0", "0 is too little: at least 1"),
        ("write --nics-per-rank 4,5", "'--nics-per-rank': 5 is too much: at most 4"),
        ("write --nics-per-rank 4,0", "'--nics-per-rank': 0 is too little: at least 1"),
        ("write --nics-per-rank 4,x", "'--nics-per-rank': 'x' is not a whole number"),
        ("write --nics-per-rank 4,", "'--nics-per-rank': '' is not a whole number"),
        ("write --nics-per-rank 4,2,1", "bench write is between 2 ranks, not 3"),
        ("write -r 2 --nics-per-rank 4,2,1", "--nics-per-rank has 3 numbers, for 2 ranks"),
        ("scatter -r 3 --nics-per-rank 4,1", "--nics-per-rank has 2 numbers, for 3 ranks"),
        ("write --transport tcp", "'tcp' is not one of auto, shm, verbs, ofi"),
        ("write --transport shm --nics mlx5_0", "--nics is for --transport verbs or ofi, not shm"),
        ("write --transport shm --gid-index 3", "--gid-index is for --transport verbs, not shm"),
        ("write --transport shm --pkey 0x8001", "--pkey is for --transport verbs, not shm"),
        ("write --transport shm --provider tcp", "--provider is for --transport ofi, not shm"),
        ("write --transport verbs --provider tcp", "--provider is for --transport ofi, not verbs"),
        ("write --transport ofi --mtu 1024", "--mtu is for --transport verbs, not ofi"),
        (
            "write --gid-index 3 --provider tcp",
            "is for --transport verbs, --provider is for --transport ofi: give those of one",
        ),
        ("write --provider tcp,library=/x", "'tcp,library=/x' is not a provider of libfabric"),
        ("write --gid-index 256", "256 is too much: at most 255"),
        ("write --service-level 16", "16 is too much: at most 15"),
        ("write --mtu 1500", "'1500' is not one of"),
        ("write --pkey 0x8000", "'0x8000' is not a partition key: write 0x8001"),
        ("write --profile /nonexistent", "'/nonexistent' does not exist"),
        ("write --impair delay=20", "'--impair': impairment \"delay=20\": expected delay=TIME"),
        ("write --impair kill=nic1@1s", "names nic1, and there are 1 NICs"),
        ("write --impair cap=nic1:1G --nics-per-rank 2,1", "names nic1, and there are 1 NICs"),
        ("write --impair cap=nic1:1G,rank=1 --nics-per-rank 2,1", "names nic1"),
        ("write --impair depth=3,rank=2", "--impair is for rank 2, and there are 2"),
        ("write --json /nonexistent/out.json", "cannot write '/nonexistent/out.json'"),
        ("write --json /", "cannot write '/': Is a directory"),
        ("write --dry-run --json -", "--dry-run measures nothing"),
        ("write -q -v", "-q and -v exclude each other"),
        ("read", "No such command 'read'"),
    ],
)
def test_bad_input(args: str, reason: str, capsys: pytest.CaptureFixture[str]) -> None:
    def never(*_: object) -> int:
        raise AssertionError("it was carried out")

    assert run(cli, ["bench", *args.split()], never) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert reason in " ".join(err.split())


def test_the_ranks_of_a_launcher_count(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PMI_SIZE", "4")
    monkeypatch.setenv("PMI_RANK", "0")
    assert run(cli, ["bench", "write"]) == 2
    assert "bench write is between 2 ranks, not 4" in capsys.readouterr().err
    assert run(cli, ["bench", "scatter", "-r", "3"]) == 2
    assert "-r 3, but" in capsys.readouterr().err
    assert run(cli, ["bench", "scatter", "--nics-per-rank", "4,2,1"]) == 2
    assert "--nics-per-rank has 3 numbers, for 4 ranks" in capsys.readouterr().err
    monkeypatch.setenv("PMI_RANK", "1")
    assert run(cli, ["bench", "write"]) == 2
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("args", "ranks", "nics"),
    [
        ("write", 2, (1, 1)),
        ("write --nics-per-rank 3", 2, (3, 3)),
        ("write --nics-per-rank 4,1", 2, (4, 1)),
        ("barrier --nics-per-rank 4,2,1", 3, (4, 2, 1)),
        ("scatter -r 3 --nics-per-rank 2", 3, (2, 2, 2)),
        ("scatter -r 4 --nics-per-rank 1,2,3,4", 4, (1, 2, 3, 4)),
    ],
)
def test_the_nics_of_each_rank(args: str, ranks: int, nics: tuple[int, ...]) -> None:
    asked = []

    def keep(request: Request, *_: object) -> int:
        asked.append(request)
        return 0

    assert run(cli, ["bench", *args.split()], keep) == 0
    assert asked[0].ranks == ranks
    assert asked[0].spec.nics(asked[0].ranks) == nics


def asked_of(*args: str) -> Spec:
    """What is carried out."""
    asked = []

    def keep(request: Request, *_: object) -> int:
        asked.append(request.spec)
        return 0

    assert run(cli, ["bench", "write", *args], keep) == 0
    return asked[0]


def test_what_only_rdma_devices_have_asks_for_them() -> None:
    spec = asked_of("--gid-index", "3", "--mtu", "1024", "--pkey", "0x8001")
    assert (spec.transport, spec.transport_why) == ("verbs", "--gid-index is for RDMA devices")
    assert spec.nic_options["verbs"] == "gid=3,mtu=1024,pkey=32769"
    assert spec.nics_per_rank == (AS_GROUPED,)
    spec = asked_of("--nics", "=mlx5_0", "--transport", "verbs")
    assert (spec.transport_why, spec.nic_names) == ("--transport verbs", "=mlx5_0")
    assert spec.nics_per_rank == (AS_GROUPED,)
    assert asked_of("--nics", "mlx5", "--nics-per-rank", "2").nics_per_rank == (2,)


def test_what_only_libfabric_has_asks_for_it(tmp_path: Path) -> None:
    spec = asked_of("--provider", "tcp", "--nics", "eth1,eth2")
    assert (spec.transport, spec.transport_why) == ("ofi", "--provider is for libfabric")
    assert (spec.nic_names, spec.nic_options["ofi"]) == ("eth1,eth2", "provider=tcp")
    assert asked_of("--nics", "eth1", "--transport", "ofi").transport_why == "--transport ofi"
    profile = tmp_path / "fabric.yaml"
    profile.write_text("fabric: {transport: ofi}\nofi: {provider: efa, library: /opt/l.so.1}")
    spec = asked_of("--profile", str(profile), "--nics", "eth1")
    assert (spec.transport, spec.transport_why) == ("ofi", "the profile says so")
    assert spec.nic_options["ofi"] == "provider=efa,library=/opt/l.so.1"
    spec = asked_of("--profile", str(profile), "--provider", "tcp")
    assert spec.nic_options["ofi"] == "provider=tcp,library=/opt/l.so.1"


def test_a_profile_says_what_flags_do_not(tmp_path: Path) -> None:
    profile = tmp_path / "fabric.yaml"
    profile.write_text("fabric: {transport: verbs}\nverbs: {gid_index: 3, traffic_class: 106}")
    spec = asked_of("--profile", str(profile), "--gid-index", "1")
    assert (spec.transport, spec.nic_options["verbs"]) == ("verbs", "gid=1,tc=106")
    assert asked_of("--profile", str(profile)).transport_why == "the profile says so"
    spec = asked_of("--profile", str(profile), "--transport", "shm")
    assert spec.transport == "shm"
    profile.write_text("verbs: {gid_index: 256}")
    assert run(cli, ["bench", "write", "--profile", str(profile)]) == 2


# ---- How it runs and ends, with real processes


def pgctl(*args: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*PGCTL, *args],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        env={**os.environ, "COLUMNS": "80", "NO_COLOR": "1", **environ},
        check=False,
    )


def eventually(condition: Callable[[], object]) -> None:
    end = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < end, f"still waiting for {condition}"
        time.sleep(0.01)


def children(pid: int) -> list[int]:
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii")
    return [int(child) for child in text.split()]


def is_gone(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(") ")[2][:1]
    except OSError:
        return True
    return state == "Z"


@pytest.mark.parametrize("operation", OPERATIONS)
def test_each_operation_runs(operation: str) -> None:
    sizes = [] if operation == "barrier" else ["-c", "--sizes", "8,4K"]
    done = pgctl("bench", operation, *QUICK, *sizes, "--json", "-")
    assert (done.returncode, done.stderr) == (0, "")
    document = json.loads(done.stdout)
    jsonschema.validate(document, SCHEMA)
    assert document["verdict"] == "pass"
    assert [size["size"] for size in document["results"]] == ([8, 4096] if sizes else [0])
    for measured in document["results"]:
        assert measured["test"] == f"bench.{operation}"
        assert measured["iters"] >= 3
        assert measured["metrics"]["lat_us"]["p50"] > 0
        assert measured["verified"] is (True if sizes else None)
        assert all(len(s["values"]) == s["total"] > 0 for s in measured["samples"].values())


@pytest.mark.parametrize(
    "flags",
    [
        "--bidirectional",
        "--no-imm",
        "--touch marching",
        "--memory registered",
        "--nics-per-rank 2",
        "--progress worker",
        "--window 1",
        "-w 0",
        "-D 0.001",
        "--seed 7",
        "--impair reorder=16,jitter=50us --seed 7",
        "--impair depth=2,delay=10us,rank=1 --nics-per-rank 2",
    ],
)
def test_each_flag_of_a_write(flags: str) -> None:
    amount = QUICK[2:] if "-D" in flags else QUICK
    done = pgctl("bench", "write", *amount, "-c", "--sizes", "64,128K", *flags.split())
    assert (done.returncode, done.stderr) == (0, "")
    assert "every byte arrived as it was sent" in done.stdout


@pytest.mark.parametrize(
    ("operation", "nics"),
    [
        ("write", (4, 1)),
        ("write", (1, 4)),
        ("write --bidirectional", (2, 3)),
        ("write --memory registered", (4, 1)),
        ("paged", (4, 1)),
        ("send", (1, 4)),
        ("barrier", (4, 1)),
        ("scatter", (4, 2, 1)),
    ],
)
def test_ranks_with_different_nics_understand_each_other(
    operation: str, nics: tuple[int, ...]
) -> None:
    sizes = {"barrier": "", "send": "8,4K", "paged": "4K,64K"}.get(operation, "64K,1M,32M")
    flags = ["-c", "--sizes", sizes] if sizes else []
    given = ",".join(map(str, nics))
    done = pgctl(
        *("bench", *operation.split(), *QUICK, *flags, "--nics-per-rank", given, "--json", "-")
    )
    assert (done.returncode, done.stderr) == (0, "")
    differ_as_asked(json.loads(done.stdout), nics)


@pytest.mark.skipif(MPIRUN is None, reason="no mpirun beside this Python: pip install mpich")
def test_ranks_of_mpirun_with_different_nics() -> None:
    command = [*PGCTL, "bench", "write", *QUICK, "-c", "--sizes", "64K,1M"]
    done = subprocess.run(
        [str(MPIRUN), "-n", "2", *command, "--nics-per-rank", "4,1", "--json", "-"],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    differ_as_asked(json.loads(done.stdout), (4, 1))


def differ_as_asked(document: dict[str, Any], nics: tuple[int, ...]) -> None:
    jsonschema.validate(document, SCHEMA)
    fabric = document["fabric"]
    assert [len(names) for names in fabric["nics_by_rank"]] == list(nics)
    assert fabric["progress"] == ["inline" if n == 1 else "worker" for n in nics]
    assert [nic["name"] for nic in fabric["nics"]] == [f"shm{i}" for i in range(nics[0])]
    assert document["run"]["ranks"] == len(nics)
    assert document["run"]["cpus"] == [None] * len(nics)
    assert document["verdict"] == "pass"
    for measured in document["results"]:
        assert measured["verified"] is (True if measured["size"] else None)
        assert set(measured["bytes_per_nic"]) == {nic["name"] for nic in fabric["nics"]}
        if measured["size"] >= 1 << 20:  # large enough to be split
            assert all(measured["bytes_per_nic"].values())


def test_more_ranks_than_cores_finish() -> None:
    ranks = str(len(os.sched_getaffinity(0)) + 2)
    done = pgctl("bench", "scatter", *QUICK, "-c", "--sizes", "4K", "-r", ranks, "--json", "-")
    assert (done.returncode, done.stderr) == (0, "")
    document = json.loads(done.stdout)
    assert document["results"][0]["verified"] is True
    assert document["run"]["cpus"] == [None] * int(ranks)


def test_a_dry_run_starts_nothing() -> None:
    done = pgctl("bench", "write", "--dry-run")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1] == "would run      24 sizes from 8 to 64M, 3 times"


def test_a_dry_run_says_what_each_rank_would_have() -> None:
    done = pgctl("bench", "write", "--dry-run", "--sizes", "1M", "--nics-per-rank", "4,1")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.partition("\n")[2] == textwrap.dedent("""\
        transport      shm (4 NICs against 1: shm0..shm3 / shm0), worker progress at
                       rank 0, inline at rank 1; all ranks are on this host
        memory         engine memory, pre-faulted, hot (the same bytes each time)
        traffic        up to 64 writes in flight, each counted by the receiver
        would run      1M, 3 times
        """)


def test_the_record_says_what_went_wrong_on_purpose() -> None:
    args = ("bench", "send", *QUICK, "--sizes", "8", "--seed", "7", "--json", "-")
    for done, impair in (
        (pgctl(*args), ""),
        (pgctl(*args, "--impair", "jitter=1us"), "jitter=1us"),
        (pgctl(*args, PGCTL_IMPAIR="depth=1,rank=1"), "depth=1,rank=1"),
        (pgctl(*args, "--impair", "none", PGCTL_IMPAIR="depth=1"), "none"),
    ):
        assert (done.returncode, done.stderr) == (0, "")
        document = json.loads(done.stdout)
        jsonschema.validate(document, SCHEMA)
        assert document["fabric"]["impair"] == impair
        assert document["run"]["seed"] == 7
        assert {"retries", "failovers"} <= document["fabric"]["nics"][0]["counters_delta"].keys()
        assert ("impaired" in document["fabric"]["path"]) == (impair != "")


@pytest.mark.parametrize("manner", ["--imm", "--no-imm", "--bidirectional", "--progress=worker"])
def test_libfabric_over_a_network_device(manner: str) -> None:
    sockets = [offer for offer in offers() if offer.domain == "lo"]
    if not sockets:
        pytest.skip("libfabric has no provider for network devices here")
    args = ("--transport", "ofi", "--provider", "tcp", "--nics", "=lo", "--nics-per-rank", "1")
    done = pgctl("bench", "write", *QUICK, "-c", "--sizes", "8,2M", manner, *args, "--json", "-")
    assert (done.returncode, done.stderr) == (0, "")
    document = json.loads(done.stdout)
    jsonschema.validate(document, SCHEMA)
    fabric = document["fabric"]
    assert (fabric["transport"], fabric["options"]) == ("ofi", "provider=tcp")
    assert [nic["name"] for nic in fabric["nics"]] == ["lo"]
    assert "(asked for) from lo to 127.0.0.1" in fabric["path"]
    assert all(measured["verified"] is True for measured in document["results"])


def offers() -> list[FabricFacts]:
    try:
        return fabric_facts()[1]
    except PgUnsupported:
        return []


def test_a_step_that_cannot_be_done_ends_with_3() -> None:
    done = pgctl("bench", "write", *QUICK, "--sizes", "8388607G")
    assert done.returncode == 3
    assert "Traceback" not in done.stderr
    assert done.stderr.startswith("pgctl: rank ")


def test_a_reader_that_leaves_early_is_no_crash() -> None:
    command = f"{' '.join(PGCTL)} bench write {' '.join(QUICK)} --sizes 8 | head -c 1"
    done = subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )
    assert (done.stdout, done.stderr) == ("b", "")


def test_a_closed_stdout_is_no_crash() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer) as stdout:
        done = subprocess.run(
            [*PGCTL, "bench", "write", *QUICK, "--sizes", "8"],
            stdout=stdout,
            stderr=subprocess.PIPE,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )
    assert (done.returncode, done.stderr) == (141, "")


class Long:
    """A benchmark that would run for an hour, once its ranks are at it."""

    def __init__(self, *args: str, **popen: object) -> None:
        command = [*PGCTL, "bench", "write", "--sizes", "8,16", "-D", "3600", *args]
        self.process = subprocess.Popen(command, **popen)  # type: ignore[call-overload]
        self.ranks: list[int] = []
        eventually(self._measures)

    def _measures(self) -> bool:
        """Both ranks have used more processor time than it takes to get there."""
        assert self.process.poll() is None
        self.ranks = children(self.process.pid)
        return len(self.ranks) == 2 and all(cpu_seconds(pid) > 1.5 for pid in self.ranks)


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@pytest.mark.parametrize("victim", [0, 1])
def test_a_rank_that_is_killed_ends_all(victim: int) -> None:
    long = Long(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    os.kill(long.ranks[victim], signal.SIGKILL)
    out, err = long.process.communicate(timeout=PATIENCE_S)
    assert (long.process.returncode, out) == (3, "")
    assert err.startswith("pgctl: rank ")
    assert err.endswith("was killed by SIGKILL\n")
    assert all(is_gone(pid) for pid in long.ranks)


def test_a_record_says_that_the_run_ended_early() -> None:
    long = Long("--json", "-", stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    os.kill(long.ranks[1], signal.SIGKILL)
    out, _ = long.process.communicate(timeout=PATIENCE_S)
    document = json.loads(out)
    jsonschema.validate(document, SCHEMA)
    assert document["verdict"] == "error"
    assert document["error"]


def test_ctrl_c_on_a_terminal() -> None:
    ours, theirs = pty.openpty()
    try:
        long = Long(stdin=theirs, stdout=theirs, stderr=theirs, preexec_fn=own_the_terminal)
        os.write(ours, b"\x03")
        screen = read_until_closed(ours, lambda: long.process.poll() is not None)
    finally:
        os.close(theirs)
        os.close(ours)
    assert long.process.returncode == 130
    assert b"Traceback" not in screen
    assert all(is_gone(pid) for pid in long.ranks)


def own_the_terminal() -> None:
    """A session of one's own, whose terminal is stdin, and Ctrl-C not ignored."""
    import fcntl
    import termios

    signal.signal(signal.SIGINT, signal.SIG_DFL)
    os.setsid()
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def read_until_closed(fd: int, over: Callable[[], bool]) -> bytes:
    """A terminal that nobody reads stops who writes to it."""
    data, end = b"", time.monotonic() + PATIENCE_S
    while True:
        assert time.monotonic() < end
        if select.select([fd], [], [], 0.05)[0]:
            data += os.read(fd, 4096)
        elif over():
            return data


# ---- Around it


def test_version_and_completion() -> None:
    from importlib.metadata import version

    assert pgctl("--version").stdout == f"pgctl {version('pgctl')}\n"
    for shell in "bash", "zsh", "fish":
        assert "_PGCTL_COMPLETE" in pgctl("completion", shell).stdout


@pytest.mark.parametrize("operation", OPERATIONS)
def test_help_has_examples_and_fits(operation: str) -> None:
    done = pgctl("bench", operation, "--help")
    assert done.returncode == 0
    assert f"pgctl bench {operation}" in done.stdout.partition("Examples:")[2]
    assert max(map(len, done.stdout.splitlines())) <= 80
