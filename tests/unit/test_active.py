"""Trials of NICs: what they do on every transport, and what becomes of one that hangs."""

import signal
import sys
import threading
import time
from dataclasses import replace
from subprocess import Popen

import fake_cuda
import numpy as np
import pytest

from pgctl import process
from pgctl.active import attempts, run
from pgctl.active.attempts import ATTEMPTS, LateError
from pgctl.active.cuda import NoGpuMemoryError
from pgctl.engine import NicConfig, PgError, RemoteRegion, TransferEngine, Transport
from pgctl.hardware.facts import read_facts
from pgctl.hardware.trials import Trial

IMPAIRMENTS = {"reorder": "reorder=16,jitter=20us"}


def python(code):
    return [sys.executable, "-P", "-c", f"import os, signal, sys, time\n{code}"]


# ---- The attempts


@pytest.mark.parametrize("what", ATTEMPTS)
def test_a_nic_that_is_well(transport, what, monkeypatch):
    monkeypatch.setattr(attempts, "_WRITES", 64)
    steps = []
    told = ATTEMPTS[what](NicConfig(transport=transport.name), steps.append)
    assert told.startswith({"registration": "2M", "loopback": "64K", "ordering": "64 writes"}[what])
    assert steps[0] == "opening the NIC"
    assert steps[-1] == "closing the NIC"
    assert len(steps) > 2


@pytest.mark.parametrize("what", ATTEMPTS)
def test_a_nic_that_is_not_there(what):
    with pytest.raises(PgError, match=r"\w+ \w+"):
        ATTEMPTS[what](NicConfig(transport="verbs", device="none_such"), lambda _: None)


def test_bytes_that_went_elsewhere(monkeypatch):
    """Registered, written and counted, but not there."""
    elsewhere = []

    def import_another(engine, _):
        elsewhere.append(engine.alloc_mr(attempts._LOOPED))
        return known(engine, elsewhere[0].desc)

    known = TransferEngine.import_mr
    monkeypatch.setattr(TransferEngine, "import_mr", import_another)
    with pytest.raises(LateError, match=r"of 65536 bytes differ, the first is \d"):
        attempts.loopback(NicConfig(transport="shm"), lambda _: None)


def test_a_payload_that_comes_late(loop):
    engine = loop.engine
    src, dst = (engine.alloc_mr(attempts._SLOT * 2) for _ in range(2))
    remote: RemoteRegion = engine.import_mr(dst.desc)
    slot = attempts._Slot(engine, 1, src, dst, remote)
    for number in (1, 2):
        slot.write(number)
        slot.counted.wait(10)
        if number == 1:
            assert slot.look()
    words = dst.numpy(np.uint64)
    words[attempts._SLOT // 8 + 3] = 1
    with pytest.raises(LateError) as caught:
        slot.look()
    assert str(caught.value) == (
        "write 2, of 65536 bytes, was counted before it was there: at byte 24 stood what write 1 "
        "had left"
    )


# ---- With a GPU, whose driver is a fake: its memory is the process's own


@pytest.fixture
def gpu(tmp_path, monkeypatch):
    """Tries to reach a GPU over shared memory: what came of it, and how the process ended."""
    for name, value in (fake_cuda.environ(tmp_path) | fake_cuda.HOST).items():
        monkeypatch.setenv(name, value)

    def call(mode="", address=fake_cuda.GPU, deadline_s=60):
        monkeypatch.setenv("FAKE_CUDA", mode)
        command = [*run._CHILD, "gpu_reach", "shm", "", address]
        return run.ask(command, deadline_s), process.run(command, deadline_s)

    return call


def test_a_gpu_that_is_reached(gpu):
    (good, told), ended = gpu()
    assert good
    assert told.startswith("2M written into the GPU and out of it; ")
    assert [line for line in ended.out if line.startswith(run.STEP)] == [
        f"{run.STEP}{step}"
        for step in (
            "opening libcuda.so.1",
            "starting CUDA",
            "opening the GPU",
            "opening the NIC",
            "connecting the NIC with itself",
            "registering 2M of the GPU",
            "writing 2M into the GPU",
            "writing 2M out of the GPU",
            "copying with CUDA what the NIC wrote",
            "closing the NIC",
            "freeing memory of the GPU",
        )
    ]
    assert ended.err[-2:] == ["cuMemFree", "cuDevicePrimaryCtxRelease"]


@pytest.mark.parametrize(
    "call",
    [
        "cuInit",
        "cuDeviceGetByPCIBusId",
        "cuDevicePrimaryCtxRetain",
        "cuCtxSetCurrent",
        "cuMemAlloc",
    ],
)
def test_a_gpu_without_memory_to_try(gpu, call):
    assert gpu(call)[0] == (None, f"{call}: CUDA_ERROR_DEVICES_UNAVAILABLE")


def test_a_gpu_that_cuda_does_not_know(gpu):
    assert gpu(address="0000:99:00.0")[0] == (None, "cuDeviceGetByPCIBusId: error 101")


@pytest.mark.parametrize("call", ["cuMemcpyHtoD", "cuCtxSynchronize", "cuMemcpyDtoH", "cuMemFree"])
def test_a_gpu_that_fails_meanwhile(gpu, call):
    assert gpu(call)[0] == (False, f"{call}: CUDA_ERROR_DEVICES_UNAVAILABLE")


def test_bytes_that_did_not_reach_the_gpu(gpu):
    assert gpu("elsewhere")[0] == (
        False,
        "1 of 2097152 bytes in the GPU differ, the first is 4096",
    )


def test_a_gpu_whose_driver_crashes_or_hangs(gpu):
    assert gpu("crash")[0] == (False, "it crashed: SIGABRT while starting CUDA")
    assert gpu("hang", deadline_s=2)[0] == (
        False,
        "nothing came of it within 2 s while starting CUDA",
    )


def test_bytes_that_did_not_come_out_of_the_gpu(tmp_path):
    """The NIC wrote where the GPU's memory is, but reads elsewhere."""
    code = f"""
from pgctl.active import attempts, child
from pgctl.engine import TransferEngine

known = TransferEngine.submit_single_write

def submit(engine, length, imm, src, dst):
    if imm == 2:
        src = engine.alloc_mr(length)
    return known(engine, length, imm, src, dst)

TransferEngine.submit_single_write = submit
child.main("gpu_reach", "shm", "", {fake_cuda.GPU!r})
"""
    environ = fake_cuda.environ(tmp_path) | fake_cuda.HOST
    variables = [f"{name}={value}" for name, value in environ.items()]
    good, told = run.ask(["env", *variables, *python(code)], 60)
    assert not good
    assert told.endswith(" of 2097152 bytes that came out of the GPU differ, the first is 0")


def test_a_machine_without_a_cuda_driver(monkeypatch):
    monkeypatch.setattr("pgctl.active.cuda._LIBRARY", "libnone.so.1")
    with pytest.raises(NoGpuMemoryError, match=r"libnone\.so\.1: cannot open"):
        attempts.gpu_reach(fake_cuda.GPU, NicConfig(transport="shm"), lambda _: None)


def test_a_cuda_driver_that_is_too_old(monkeypatch):
    monkeypatch.setattr("pgctl.active.cuda._LIBRARY", "libc.so.6")
    with pytest.raises(NoGpuMemoryError, match="the CUDA driver has no cuInit"):
        attempts.gpu_reach(fake_cuda.GPU, NicConfig(transport="shm"), lambda _: None)


# ---- The processes


@pytest.mark.parametrize(
    ("code", "good", "told"),
    [
        ("print('step: a'); print('good: it is so')", True, "it is so"),
        ("print('step: a'); print('bad: no')", False, "no"),
        ("print('step: a'); print('untried: no')", None, "no"),
        (
            "print('step: writing', flush=True); os.kill(os.getpid(), signal.SIGSEGV)",
            False,
            "it crashed: SIGSEGV while writing",
        ),
        (
            "print('step: writing', flush=True); sys.exit('out of luck')",
            False,
            "it ended with status 1 while writing: out of luck",
        ),
        ("pass", False, "it said nothing"),
        ("sys.exit(3)", False, "it ended with status 3"),
        ("raise KeyError('x')", False, "it ended with status 1: KeyError: 'x'"),
    ],
)
def test_how_a_trial_ends(code, good, told):
    assert run.ask(python(code), 60) == (good, told)


@pytest.mark.parametrize("ignoring", ["", "signal.signal(signal.SIGTERM, signal.SIG_IGN)"])
def test_a_trial_that_hangs(ignoring):
    code = f"{ignoring}\nprint('step: closing the NIC', flush=True)\ntime.sleep(3600)"
    started = time.monotonic()
    good, told = run.ask(python(code), 2)
    assert time.monotonic() - started < 60  # it did not wait for it
    assert not good
    assert told == "nothing came of it within 2 s while closing the NIC"


def test_a_trial_that_nobody_can_end(monkeypatch):
    """As one in an uninterruptible wait: it is left behind."""
    left = []
    kill = Popen.kill

    def leave(child):
        left.append(child)

    monkeypatch.setattr(Popen, "kill", leave)
    monkeypatch.setattr(process, "_KILLED_S", 0.1)
    try:
        told = run.ask(python("print('step: a', flush=True); time.sleep(3600)"), 2)
    finally:
        for child in left:
            kill(child)
            child.wait()
    assert told == (
        False,
        "nothing came of it within 2 s, and the kernel does not let go of it while a",
    )


# ---- Which transport, which NICs


@pytest.fixture
def asked(monkeypatch):
    """The transports of this build, and what is asked of children: all is well but for `bad`."""

    class Asked(list):
        bad = ()
        caps = TransferEngine(transport="shm").limits().caps
        known = (Transport("shm", caps, ""), Transport("verbs", caps, ""))

        def answer(self, command, deadline_s, stop):
            assert isinstance(stop, process.Stop)
            what, _, device, *gpu = request = tuple(command[len(run._CHILD) :])
            assert deadline_s == (run.GPU_DEADLINE_S if gpu else run.DEADLINE_S)
            self.append(request)
            return ((what, device, *gpu) not in self.bad, "so")

    asked = Asked()
    monkeypatch.setattr(run, "ask", asked.answer)
    monkeypatch.setattr("pgctl.engine.transports", lambda: asked.known)
    return asked


def test_an_interrupt_ends_trials_that_hang(built, monkeypatch, tmp_path):
    """At once, and nothing is tried after it."""
    cores = 2
    ours = threading.get_ident()
    known = process.run
    started = []

    def hang(command, _, stop):
        nic = command[-1]
        started.append(nic)
        code = f"open({str(tmp_path / nic)!r}, 'w'); time.sleep(3600)"
        return known(python(code), 3600, stop)

    def interrupt():
        while len(list(tmp_path.iterdir())) < cores:
            time.sleep(0.01)
        signal.pthread_kill(ours, signal.SIGINT)

    facts = read_facts(str(built["efa32"].root))
    caps = TransferEngine(transport="shm").limits().caps
    monkeypatch.setattr("pgctl.engine.transports", lambda: [Transport("verbs", caps, "")])
    monkeypatch.setattr(process, "run", hang)
    monkeypatch.setattr(run.os, "sched_getaffinity", lambda _: range(cores))
    threading.Thread(target=interrupt, daemon=True).start()
    with pytest.raises(KeyboardInterrupt):
        run.try_nics(facts, "verbs", ALL)
    assert len(started) == cores


ALL = ("ordering", "loopback", "registration")


def test_every_nic_of_a_machine(built, asked):
    facts = read_facts(str(built["shared"].root))
    trials = run.try_nics(facts, "auto", ALL)
    assert (trials.transport, trials.why) == ("verbs", "there are RDMA devices")
    assert [(t.what, t.nic) for t in trials.done] == [
        (what, f"mlx5_{i}") for i in range(4) for what in ("registration", "loopback", "ordering")
    ]
    assert sorted(asked) == sorted((t.what, "verbs", t.nic) for t in trials.done)


def test_nothing_follows_what_failed(built, asked):
    asked.bad = [("loopback", "mlx5_2"), ("registration", "mlx5_3")]
    trials = run.try_nics(read_facts(str(built["shared"].root)), "verbs", ALL)
    assert trials.why == "--transport verbs"
    assert [(t.what, t.good) for t in trials.done if t.nic == "mlx5_2"] == [
        ("registration", True),
        ("loopback", False),
    ]
    assert [t for t in trials.done if t.nic == "mlx5_3"] == [
        Trial("registration", "mlx5_3", good=False, told="so")
    ]


def test_gpus_are_tried_with_the_nics_of_their_groups(built, asked):
    """Two share a NIC there; a pair that fails does not hide another."""
    facts = read_facts(str(built["shared"].root))
    pairs = [(nic, group.gpu) for group in facts.groups for nic in group.nics]
    asked.bad = [("gpu_reach", *pairs[0])]
    trials = run.try_nics(facts, "auto", ["gpu_reach"])
    assert len(pairs) == len(facts.gpus) == 8
    assert [(t.nic, t.gpu, t.good) for t in trials.done] == [
        (nic, gpu, (nic, gpu) != pairs[0]) for nic, gpu in pairs
    ]
    assert sorted(asked) == sorted(("gpu_reach", "verbs", *pair) for pair in pairs)


def test_gpus_are_not_tried_with_a_nic_that_fails(built, asked):
    asked.bad = [("loopback", "mlx5_2")]
    trials = run.try_nics(read_facts(str(built["shared"].root)), "auto", [*ALL, "gpu_reach"])
    tried = {t.nic for t in trials.done if t.what == "gpu_reach"}
    assert tried == {"mlx5_0", "mlx5_1", "mlx5_3"}


def test_shared_memory_does_not_reach_gpus(built, asked):
    trials = run.try_nics(read_facts(str(built["shared"].root)), "shm", ["gpu_reach"])
    assert trials.done == (Trial("gpu_reach", "shm0", None, "shared memory does not reach GPUs"),)
    assert run.try_nics(read_facts(str(built["laptop"].root)), "shm", ["gpu_reach"]).done == ()
    assert not asked


def test_shared_memory_where_there_is_no_nic(built, asked):
    trials = run.try_nics(read_facts(str(built["laptop"].root)), "auto", ["loopback"])
    assert (trials.transport, trials.why) == ("shm", "there is no RDMA device")
    assert asked == [("loopback", "shm", "")]
    assert [t.nic for t in trials.done] == ["shm0"]


def test_a_build_without_a_transport_for_rdma(built, asked):
    facts = read_facts(str(built["shared"].root))
    asked.known = asked.known[:1]
    trials = run.try_nics(facts, "auto", ["loopback"])
    assert (trials.transport, trials.why) == (
        "shm",
        "this build has no transport for RDMA devices",
    )
    trials = run.try_nics(facts, "verbs", ["loopback"])
    assert trials.done == (
        Trial("loopback", "verbs", good=False, told="this build has no transport 'verbs'"),
    )


def test_a_transport_that_this_machine_cannot_run(built, asked):
    asked.known = (Transport("verbs", None, "libibverbs.so.1: not there"),)
    trials = run.try_nics(read_facts(str(built["shared"].root)), "auto", ALL)
    assert trials.done == (
        Trial("registration", "verbs", good=False, told="libibverbs.so.1: not there"),
    )
    assert not asked


def test_ports_have_the_names_that_the_transport_knows(built, asked):
    facts = read_facts(str(built["shared"].root))
    port = replace(facts.nics[0], name="mlx5_0:2", port=2)
    run.try_nics(replace(facts, nics=(port,)), "verbs", ["loopback"])
    assert asked == [("loopback", "verbs", "mlx5_0:2")]
