"""What ranks decide before the clock runs, and how they look at what has arrived."""

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgctl.bench import limits, loops, paged, payload
from pgctl.bench.loops import Timing, Traffic
from pgctl.bench.measure import Flow, time_of_one
from pgctl.bench.placement import Placement, Seat, decide, wait_mode
from pgctl.bench.spec import Spec
from pgctl.bench.tally import Tally, result
from pgctl.bench.work import Shape, Work, pair_roles, shape, traffic


def work_of(size: int, **more: object) -> Work:
    op = loops.write_op(1, 2, size)
    fields = {"destinations": (1,), "sources": (1,), "extent": size, "payload": size} | more
    return Work(size=size, op=op, **fields)  # type: ignore[arg-type]


# ---- How much


@given(
    st.integers(1, 1 << 30),
    st.integers(1, 100_000),
    st.none() | st.integers(1, 1024),
    st.none() | st.integers(0, 1000),
)
def test_a_shape_holds_together(
    size: int, operations: int, window: int | None, warmup: int | None
) -> None:
    spec = Spec(operation="write", window=window, warmup=warmup)
    form = shape(spec, work_of(size), operations)
    assert form.operations >= operations
    assert form.batches % form.block == 0  # so that no operation goes without a sample
    assert form.block % form.depth == 0
    assert form.batch * form.depth <= spec.window_of(size)
    assert warmup is None or form.batch * form.warmup >= warmup
    assert form.batches // form.block <= 2 * 100


@given(st.integers(1, 1 << 20), st.integers(1, 1000), st.integers(1, 7), st.booleans())
def test_what_is_sent_is_counted(size: int, operations: int, senders: int, imm: bool) -> None:
    spec = Spec(operation="write", imm=imm)
    work = work_of(size, sources=tuple(range(senders)), arrivals=3)
    form = shape(spec, work, operations)
    plan = traffic(spec, work, form)
    counted = senders * 3 if imm else 0
    assert plan.arrivals == counted * form.operations
    assert plan.warmup_arrivals == counted * form.warmup * form.batch
    assert plan.chunk >= counted * form.batch * form.depth
    only_receives = traffic(spec, work_of(size, destinations=()), form)
    assert only_receives.batches == only_receives.warmup_batches == 0


@pytest.mark.parametrize(
    ("operation", "size", "hot", "marching"),
    [("write", 100, 128, 128), ("paged", 4096, 16 << 20, 16 << 20), ("scatter", 100, 448, 448)],
)
def test_operations_do_not_overlap_when_they_march(
    operation: str, size: int, hot: int, marching: int
) -> None:
    extent = Spec(operation=operation).extent(size, ranks=4)
    assert Spec(operation=operation).step(extent) == 0
    assert Spec(operation=operation).span(extent) == hot
    spec = Spec(operation=operation, touch="marching")
    assert spec.step(extent) == marching
    assert spec.span(extent) == 256 << 20


def test_a_trial_grows_until_it_can_be_measured() -> None:
    tried = []

    def trial(wanted: int) -> tuple[int, float]:
        tried.append(wanted)
        return wanted, wanted * 100.0

    assert time_of_one(trial, None) == 100.0
    assert tried[0] == 1
    assert tried[-1] * 100.0 >= 1e6
    tried.clear()
    time_of_one(trial, 60)
    assert tried[-1] >= 60
    assert len(tried) == 3


# ---- Where


def seats(*cpus: tuple[int, ...], host: str = "a") -> list[Seat]:
    return [Seat(host, own) for own in cpus]


def cores(where: list[Placement]) -> list[int | None]:
    return [place.cpu for place in where]


def test_each_rank_has_a_core_if_there_are_enough() -> None:
    where = decide(seats((0, 2, 1, 3), (0, 2, 1, 3)), "auto", (1, 1))
    assert where == [Placement(0, 4, False, "inline", 1), Placement(2, 4, False, "inline", 1)]


def test_ranks_without_a_core_each_share() -> None:
    where = decide(seats((0, 1), (0, 1), (0, 1)), "auto", (1, 1, 1))
    assert where == [Placement(None, 2, True, "inline", 1)] * 3


def test_threads_of_the_engine_are_not_pinned_to_one_core() -> None:
    two = seats((0, 1, 2, 3), (0, 1, 2, 3))
    assert decide(two, "auto", (2, 2)) == [Placement(None, 4, False, "worker", 2)] * 2
    assert cores(decide(two, "worker", (1, 1))) == [None, None]
    assert cores(decide(two, "inline", (2, 2))) == [0, 1]


def test_each_rank_drives_its_own_number_of_nics() -> None:
    five = (0, 1, 2, 3, 4)
    assert decide(seats(five, five), "auto", (4, 1)) == [
        Placement(None, 5, False, "worker", 4),
        Placement(None, 5, False, "inline", 1),
    ]
    inline = decide(seats(five, five), "inline", (4, 1))
    assert [place.threads for place in inline] == [1, 1]
    assert cores(inline) == [0, 1]


def test_who_drives_itself_gives_way_where_the_others_have_more_threads_than_cores() -> None:
    crowded, spacious = (
        decide(seats(cpus, cpus), "auto", (1, 4))[0] for cpus in (range(4), range(5))
    )
    assert wait_mode(crowded) == loops.YIELD
    assert wait_mode(spacious) == loops.SPIN


def test_what_a_launcher_has_bound_stays() -> None:
    assert cores(decide(seats((5,), (7,)), "auto", (1, 1))) == [5, 7]
    assert cores(decide(seats((4, 5), (6, 7)), "auto", (1, 1))) == [None, None]
    assert decide(seats((0,), (0,)), "auto", (1, 1)) == [Placement(None, 1, True, "inline", 1)] * 2


def test_ranks_of_other_hosts_neither_take_a_core_here_nor_crowd() -> None:
    apart = seats((0, 1), host="a") + seats((0, 1), host="b")
    assert cores(decide(apart, "auto", (1, 1))) == [0, 0]
    assert decide(apart, "auto", (1, 4))[0] == Placement(0, 2, False, "inline", 1)


def test_cores_of_groups_come_first() -> None:
    every = seats(range(4), range(4))
    assert cores(decide(every, "auto", (1, 1), (2, 0))) == [2, 0]
    worker = decide(every, "worker", (1, 1), (2, 0))
    assert [(place.cpu, place.worker) for place in worker] == [(None, 2), (None, 0)]


@pytest.mark.parametrize("grouped", [(2, None), (2, 2), (2, 9)])
def test_cores_of_groups_are_for_who_has_one_alone(grouped: tuple[int | None, ...]) -> None:
    assert cores(decide(seats(range(4), range(4)), "auto", (1, 1), grouped)) == [0, 1]


def test_a_launcher_that_has_bound_ranks_knows_better_than_groups() -> None:
    assert cores(decide(seats((5,), (7,)), "auto", (1, 1), (0, 1))) == [5, 7]


# ---- Who has what, and who sends


def test_one_number_is_every_ranks() -> None:
    assert Spec(operation="scatter").nics(3) == (1, 1, 1)
    assert Spec(operation="scatter", nics_per_rank=(4,)).nics(3) == (4, 4, 4)
    assert Spec(operation="scatter", nics_per_rank=(4, 2, 1)).nics(3) == (4, 2, 1)


@pytest.mark.parametrize(
    ("operation", "bidirectional", "senders"),
    [("write", False, [0]), ("paged", True, [0, 1]), ("send", False, [0]), ("barrier", False, 3)],
)
def test_who_sends(operation: str, bidirectional: bool, senders: list[int] | int) -> None:
    spec = Spec(operation=operation, bidirectional=bidirectional)
    expected = senders if isinstance(senders, list) else list(range(senders))
    ranks = 2 if isinstance(senders, list) else senders
    assert list(spec.senders(ranks)) == expected
    if isinstance(senders, list):
        for rank in range(2):
            here = SimpleNamespace(spec=spec, rank=rank, size=2)
            destinations, sources = pair_roles(here)  # type: ignore[arg-type]
            assert destinations == ((1 - rank,) if rank in senders else ())
            assert sources == ((1 - rank,) if 1 - rank in senders else ())


# ---- What has arrived


class Ranks(SimpleNamespace):
    """A session of one rank that receives, over memory of its own."""

    def share(self, value: object, _: float = 0) -> list[object]:
        return [value]


def session(spec: Spec, span: int) -> Ranks:
    def region() -> SimpleNamespace:
        array = np.zeros(span, np.uint8)
        return SimpleNamespace(array=array, address=array.ctypes.data)

    sinks = SimpleNamespace(own=region())
    return Ranks(spec=spec, rank=1, size=2, source=region(), sinks=sinks)


def deliver(here: Ranks, work: Work, cycle: int, positions: int, step: int) -> None:
    """What rank 0 would have written."""
    there = session(here.spec, here.source.array.size)
    there.rank = 0
    payload.prepare(there, work, cycle)
    for at in range(0, positions * max(step, 1), max(step, 1)):
        for origin, offset, size in work.pieces(0):
            part = there.source.array[at + origin : at + origin + size]
            here.sinks.own.array[at + offset : at + offset + size] = part


@pytest.mark.parametrize("touch", ["hot", "marching"])
@pytest.mark.parametrize("operation", ["write", "paged"])
@pytest.mark.parametrize("size", [1, 100, 4096])
def test_every_changed_byte_is_found(operation: str, size: int, touch: str) -> None:
    spec = Spec(operation=operation, touch=touch, pages=5, seed=3)  # type: ignore[arg-type]
    extent = spec.extent(size, 2)
    pieces = [(0, 0, size)]
    if operation == "paged":
        src, dst = paged.permutations(3, 0, size, 5)
        pieces = [(int(s) * size, int(d) * size, size) for s, d in zip(src, dst, strict=True)]
    work = work_of(size, extent=extent, sources=(0,), pieces=lambda _: pieces)
    form = Shape(batch=2, depth=1, warmup=1, batches=2, block=1)
    here = session(spec, spec.span(extent))
    payload.prepare(here, work, cycle=1)
    assert payload.wrong(here, work, form, 1)  # nothing has been written yet
    step = spec.step(extent)
    positions = 6 if step else 1
    deliver(here, work, 1, positions, step)
    assert payload.wrong(here, work, form, 1) == []
    assert payload.wrong(here, work, form, 2)  # another cycle's bytes are not this one's
    for at in {0, extent - 1, (positions - 1) * step, (positions - 1) * step + extent - 1}:
        here.sinks.own.array[at] ^= 1
        assert payload.wrong(here, work, form, 1) == [f"byte {at} at rank 1, from rank 0"]
        here.sinks.own.array[at] ^= 1


# ---- What it comes to


def flow(senders: int, sample_ns: list[float], per_sample: int, operations: int) -> Flow:
    form = Shape(batch=1, depth=1, warmup=0, batches=operations, block=per_sample)
    samples = np.array(sample_ns)
    return Flow(form, senders, samples.sum(), samples, per_sample, np.array([500.0]))


def outcome(work: Work, tally: Tally):
    return result("bench.x", work, tally, line_rate="limit", off_node=0, bytes_per_nic={})


def test_bandwidth_rate_and_share_of_the_limit() -> None:
    tally = Tally(
        flows=[flow(1, [1000, 2000, 4000], 10, 30)],
        rounds=[np.array([400.0, 600.0])],
        limits={"limit": [np.array([1.0])]},
    )
    metrics = outcome(work_of(100, writes=2), tally).metrics
    assert metrics["bw_gbyte_s"]["p50"] == 0.5
    assert metrics["bw_gbyte_s"]["mean"] == pytest.approx(3000 / 7000)
    assert metrics["bw_gbit_s"]["p50"] == 4
    assert metrics["rate_mop_s"]["p50"] == 10
    assert metrics["lat_us"]["p50"] == 0.2
    assert metrics["complete_us"]["p50"] == 0.5
    assert metrics["bw_pct_line_rate"] == {"p50": 50}


def test_all_senders_are_added_and_all_ranks_go_one_way() -> None:
    tally = Tally(flows=[flow(3, [1000], 10, 10)], rounds=[np.array([400.0])])
    found = outcome(work_of(100, symmetric=True), tally)
    assert found.metrics["bw_gbyte_s"]["p50"] == 3
    assert found.metrics["lat_us"]["p50"] == 0.4
    assert found.pair is None
    assert found.payload == {"total": 300, "off_node": 0}
    assert "bw_pct_line_rate" not in found.metrics


def test_samples_are_kept_whole_or_their_number_is_told() -> None:
    tally = Tally(rounds=[np.arange(8000.0), np.arange(7000.0)])
    kept = outcome(work_of(8), tally).samples["round_ns"]
    assert (kept.total, len(kept.values)) == (15000, 10000)
    assert (kept.values[0], kept.values[-1]) == (0, 6999)


@pytest.mark.parametrize(("threads", "gbyte_s"), [(1, [10, 10]), (4, [5])])
def test_blocks_of_one_of_several_copying_threads_are_no_limit(
    threads: int, gbyte_s: list[float]
) -> None:
    """A thread that has a core is done with its part long before those that wait for one."""

    def memcpy(plan: Traffic, *_: object) -> Timing:
        blocks = np.array([1.0, 1.0]) * plan.batch * plan.block
        return Timing(sent_ns=2 * plan.batch * plan.batches, block_ns=blocks)

    here = Ranks(
        spec=Spec(operation="write", iters=10_000),
        rank=0,
        source=SimpleNamespace(address=0),
        sinks=SimpleNamespace(others={1: SimpleNamespace(mapped=0)}),
        loops=SimpleNamespace(memcpy=memcpy),
        limit_s=lambda _: 1.0,
        meet=lambda: None,
    )
    found = limits.memcpy(here, work_of(10), 1.0, threads=threads)  # type: ignore[arg-type]
    assert found.tolist() == gbyte_s


def test_nobody_looked_is_not_all_is_well() -> None:
    tally = Tally(flows=[flow(1, [1000], 1, 1)])
    assert outcome(work_of(8), tally).verified is None
    tally.checked = True
    assert outcome(work_of(8), tally).verified is True
    tally.wrong.append("byte 3")
    assert outcome(work_of(8), tally).verified is False
