"""Programs of fixed seeds, and what finds and minimises those that fail."""

import json

import pytest
from model import Model, Round
from over import LIBRARY, over
from program import FLAVOURS, effective, make, operations, without_rank
from runner import Failure, Pool, Run
from soak import minimise

from pgctl.engine import transports

SEEDS = range(100)


FEW = range(12)
"""Where a program takes longer."""


@pytest.fixture(scope="module")
def pools(tmp_path_factory):
    """By what programs run over."""
    its = {}

    def take(name):
        if name not in its:
            flap = 0.1 if name == "fake_efa" else 0.0
            its[name] = Pool(over(name, tmp_path_factory.mktemp(name), flap))
        return its[name]

    yield take
    for it in its.values():
        it.close()


def run(pool, seed):
    try:
        Run(make(seed), pool).run()
    except Failure as failure:
        pytest.fail(f"seed {seed}: {failure}\n{failure.dumps}", pytrace=False)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_random_program_does_what_the_model_says(pools, seed):
    run(pools("shm"), seed)


@pytest.mark.parametrize("seed", FEW)
def test_also_over_tcp(pools, seed):
    transport = next(each for each in transports() if each.name == "ofi")
    if transport.caps is None:
        pytest.skip(transport.reason)
    run(pools("tcp"), seed)


@pytest.mark.parametrize("seed", FEW)
def test_also_where_nics_go_and_come(pools, seed):
    if not LIBRARY.exists():
        pytest.skip(f"{LIBRARY} is not built: make test-c")
    run(pools("fake_efa"), seed)


def test_a_seed_alone_decides_a_program_which_is_plain_data():
    for seed in SEEDS:
        program = make(seed)
        assert program == make(seed) == json.loads(json.dumps(program))


def test_the_fixed_seeds_have_every_kind_of_step_and_operation():
    programs = [make(seed) for seed in SEEDS]
    rounds = [steps for program in programs for steps in map(effective, program["rounds"])]
    assert {program["flavour"] for program in programs} == {*FLAVOURS}
    assert {step["do"] for steps in rounds for step in steps} == {
        "submit", "expect", "connect", "cancel", "revoke", "stop", "cont", "kill", "bye", "free",
    }  # fmt: skip
    ops = [op for steps in rounds for _, op in operations(steps)]
    assert {op["kind"] for op in ops} == {"write", "paged", "scatter", "barrier", "send", "fence"}
    for what in "limit_ms", "stale", "visible", "cookie", "cancel_now":
        assert any(op.get(what) for op in ops), what


def test_nothing_is_left_of_a_rank_that_is_taken_out_of_a_program():
    program = make(next(seed for seed in SEEDS if len(make(seed)["ranks"]) > 3))
    less = without_rank(program, 1)
    for steps in less["rounds"]:
        for step in steps:
            assert step["rank"] != 1
        for _, op in operations(steps):
            targets = [d["to"] for d in op["dsts"]] if "dsts" in op else op["to"]
            assert 1 not in (targets if isinstance(targets, list) else [targets])


def test_a_failing_program_is_made_as_small_as_it_fails():
    """It fails as long as rank 0 sends something and rank 1 is told to cancel something."""

    def failing(program):
        steps = [step for steps in program["rounds"] for step in steps]
        sends = [op for step, op in operations(steps) if step["rank"] == 0 and op["kind"] == "send"]
        cancels = [step for step in steps if step["do"] == "cancel" and step["rank"] == 1]
        return Failure("so it does") if sends and cancels else None

    program = next(p for p in map(make, range(1000)) if failing(p) and len(p["ranks"]) > 2)
    least = minimise(program, failing, 60.0, again=1)
    steps = [step for steps in least["rounds"] for step in steps]
    assert sorted(step["do"] for step in steps) == ["cancel", "submit"]
    assert len([*operations(steps)]) == 1


# ---- The model says no


RANKS = [{"pool": [4096, 1], "max_ops": 64}] * 2
BARRIER = {"id": 1, "kind": "barrier", "cookie": False, "imm": 7, "visible": False, "to": [1]}
SEND = {"id": 2, "kind": "send", "cookie": False, "to": 1, "len": 100}


def judged(outcomes, *, more=(), ended=()):
    model = Model(RANKS)
    steps = [{"do": "submit", "rank": 0, "ops": [BARRIER, SEND]}, *more]
    model.begin(Round(steps, {*ended}, outcomes))
    return model


DONE = {"status": 0, "statuses": None, "error": ""}
CANCELED = {"status": 125, "statuses": None, "error": ""}


@pytest.mark.parametrize(
    ("outcomes", "wrong"),
    [
        ({1: DONE, 2: DONE}, 0),
        ({1: DONE}, 1),
        ({1: DONE, 2: CANCELED}, 1),
        ({1: DONE, 2: {"refused": 116}}, 1),
    ],
)
def test_ends_are_judged(outcomes, wrong):
    assert len([*judged(outcomes).wrong_ends()]) == wrong


def test_an_error_that_somebody_asked_for_is_right():
    cancel = {"do": "cancel", "rank": 0, "id": 2}
    model = judged({1: DONE, 2: CANCELED}, more=[cancel])
    assert [*model.wrong_ends()] == []
    assert model.expected_messages(1) == []


@pytest.mark.parametrize(("value", "wrong"), [(0, 1), (1, 0), (2, 1)])
def test_counts_are_judged(value, wrong):
    counts = {"values": [(7, value)], "expected": []}
    model = judged({1: DONE, 2: DONE})
    assert len([*model.wrong_counts(1, counts)]) == wrong


def test_of_one_who_died_any_part_may_have_arrived():
    model = judged({}, ended=[0])
    for value in 0, 1:
        assert [*model.wrong_counts(1, {"values": [(7, value)], "expected": []})] == []
    assert [*model.wrong_counts(1, {"values": [(7, 2)], "expected": []})]


@pytest.mark.parametrize(
    ("arrived", "wrong"),
    [([[2, 0, 100, 0]], 0), ([[2, 0, 100, 0]] * 2, 1), ([[3, 0, 9, 0]], 1), ([[2, 1, 100, 0]], 1)],
)
def test_messages_are_judged(arrived, wrong):
    assert len([*judged({1: DONE, 2: DONE}).wrong_messages(1, arrived)]) == wrong
