"""Ranks that the command starts itself: how they meet, and how every run ends.

Each test runs a launcher process over a small rank program. Whatever happens, no process of the
run may be left when the launcher has ended.
"""

import json
import os
import re
import signal
import subprocess
import sys
import textwrap
import time
import uuid
from pathlib import Path

import pytest

from pgctl import cluster

PATIENCE_S = 60

LAUNCHER = """
import signal, sys
# whatever the test runner inherited
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)
from pgctl import cluster
ranks, verbose, settle_s, *command = sys.argv[1:]
if settle_s:
    cluster.launcher._SETTLE_S = float(settle_s)
cluster.enter(int(ranks), command[1:], command=[sys.executable, command[0]],
              verbose=verbose == "verbose")
"""

# What every rank program below starts with. `mark` says something to the test.
RANK = """
import json, os, signal, sys, time
from pathlib import Path
from pgctl import cluster

def mark(name, value=None):
    path = Path(__file__).with_name(name)
    unfinished = path.with_name(f"new.{name}")
    unfinished.write_text(json.dumps(value))
    unfinished.rename(path)

def hang():
    while True:
        signal.pause()
"""


def eventually(condition):
    end = time.monotonic() + PATIENCE_S
    while not (value := condition()):
        assert time.monotonic() < end, f"still waiting for {condition}"
        time.sleep(0.01)
    return value


class Job:
    """A launcher with its ranks."""

    def __init__(self, folder):
        self.folder = folder
        self.scratch = folder / "scratch"
        self.scratch.mkdir()
        self._token = f"PGCTL_TEST={uuid.uuid4()}"
        self.process = None

    def start(self, ranks, program, *, verbose=False, settle_s="", via=None, **popen):
        script = self.folder / "rank.py"
        script.write_text(RANK + textwrap.dedent(program))
        name, _, value = self._token.partition("=")
        popen = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | popen
        options = [str(ranks), "verbose" if verbose else "", str(settle_s)]
        command = ["-c", LAUNCHER, *options, str(script)]
        self.process = subprocess.Popen(
            [sys.executable, *(["-c", via] if via else []), *command],
            env=os.environ | {name: value, "TMPDIR": str(self.scratch)},
            text=True,
            **popen,
        )
        return self

    def marked(self, name):
        path = self.folder / name
        eventually(path.exists)
        return json.loads(path.read_text())

    def pids(self, ranks):
        return [self.marked(f"pid.{rank}") for rank in range(ranks)]

    def end(self):
        """Wait for the end; return status, stdout and stderr, with process ids made <pid>."""
        out, err = self.process.communicate(timeout=PATIENCE_S)
        assert self.left() == []
        return self.process.returncode, out, re.sub(r"\(pid \d+", "(pid <pid>", err or "")

    def left(self):
        """The processes of this job that live."""
        found = []
        for path in Path("/proc").glob("[0-9]*/environ"):
            try:
                if self._token.encode() in path.read_bytes():
                    found.append(int(path.parent.name))
            except OSError:
                pass
        return found

    def close(self):
        left = self.left()
        for pid in left:
            os.kill(pid, signal.SIGKILL)
        if self.process is not None:
            self.process.wait()
            for stream in (self.process.stdout, self.process.stderr):
                if stream is not None:
                    stream.close()
        assert left == []
        assert list(self.scratch.iterdir()) == []


@pytest.fixture
def job(tmp_path):
    job = Job(tmp_path)
    yield job
    job.close()


# Meeting


@pytest.mark.parametrize("ranks", [1, 2, 4, 8])
def test_every_rank_gets_every_payload(job, ranks):
    program = """
        with cluster.enter() as ranks:
            assert ranks.launcher == "local"
            sizes = [0, 1, 1 << 20, 17, 4096, 3, 65536, 5]
            for turn in range(8):
                mine = bytes([ranks.rank]) * sizes[(ranks.rank + turn) % 8]
                expected = [bytes([r]) * sizes[(r + turn) % 8] for r in range(ranks.size)]
                assert ranks.allgather(mine) == expected
                ranks.barrier()
            if ranks.rank == 0:
                print("met", ranks.size)
    """
    assert job.start(ranks, program).end() == (0, f"met {ranks}\n", "")


def test_a_barrier_holds_until_the_last_rank_has_come(job):
    program = """
        here = Path(__file__).parent
        with cluster.enter() as ranks:
            for turn in range(50):
                mark(f"turn.{turn}.{ranks.rank}")
                ranks.barrier()
                assert all((here / f"turn.{turn}.{r}").exists() for r in range(ranks.size))
    """
    assert job.start(4, program).end() == (0, "", "")


def test_only_rank_0_reaches_stdout(job):
    program = """
        with cluster.enter() as ranks:
            print("out", ranks.rank)
            print("err", ranks.rank, file=sys.stderr)
    """
    assert job.start(3, program).end() == (0, "out 0\n", "err 0\n")


def test_verbose_passes_the_other_ranks_on(job):
    program = """
        with cluster.enter() as ranks:
            print("out", ranks.rank)
            print("err", ranks.rank, end="", file=sys.stderr)
    """
    status, out, err = job.start(3, program, verbose=True).end()
    assert (status, out) == (0, "out 0\n")
    for rank in (1, 2):
        assert f"[rank {rank}] out {rank}\n" in err
        assert f"[rank {rank}] err {rank}\n" in err


def test_a_closed_cluster_closes_again_and_refuses_calls(job):
    program = """
        ranks = cluster.enter()
        ranks.close()
        ranks.close()
        try:
            ranks.barrier()
        except cluster.ClusterError as error:
            print(error)
    """
    assert job.start(1, program).end() == (0, "the cluster is closed\n", "")


def test_a_rank_enters_once(job):
    program = """
        with cluster.enter():
            try:
                cluster.enter()
            except cluster.ClusterError as error:
                print(error)
    """
    status, out, err = job.start(1, program).end()
    assert (status, err) == (0, "")
    assert out.startswith("PGCTL_RANK says that this is a rank, but there is no place to take")


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), float("inf")])
def test_a_timeout_is_a_positive_number(job, timeout):
    program = f"""
        with cluster.enter() as ranks:
            try:
                ranks.barrier(float("{timeout}"))
            except ValueError as error:
                print(error)
    """
    message = f"a timeout must be a positive number of seconds, not {float(timeout)}\n"
    assert job.start(1, program).end() == (0, message, "")


@pytest.mark.parametrize("ranks", [0, -1])
def test_there_is_at_least_one_rank(ranks):
    for call in (cluster.enter, cluster.launch):
        with pytest.raises(
            ValueError, match=f"the number of ranks must be at least 1, not {ranks}"
        ):
            call(ranks, [])


def test_a_command_that_does_not_start_is_an_error(tmp_path):
    with pytest.raises(cluster.ClusterError, match=r"cannot start rank 0 of 2: .*nowhere"):
        cluster.launch(2, [], command=[str(tmp_path / "nowhere")])


# Verdicts: what ranks decide themselves


@pytest.mark.parametrize("status", [0, 1, 2, 77, 130])
def test_a_verdict_of_all_ranks_is_the_commands_and_makes_no_noise(job, status):
    program = f"""
        with cluster.enter() as ranks:
            ranks.barrier()
            sys.exit({status})
    """
    assert job.start(3, program).end() == (status, "", "")


@pytest.mark.parametrize("rest", ["ranks.barrier()", "hang()"])
@pytest.mark.parametrize("status", [1, 2, 77, 130])
def test_a_verdict_of_rank_0_ends_all(job, status, rest):
    program = f"""
        with cluster.enter() as ranks:
            if ranks.rank == 0:
                print("told")
                sys.exit({status})
            {rest}
    """
    assert job.start(3, program).end() == (status, "told\n", "")


def test_the_verdict_of_rank_0_goes_before_an_earlier_one(job):
    program = """
        import select
        with cluster.enter() as ranks:
            pids = [int.from_bytes(p) for p in ranks.allgather(os.getpid().to_bytes(4))]
            if ranks.rank == 1:
                ranks.barrier()
                sys.exit(1)
            other = os.pidfd_open(pids[1])
            ranks.barrier()
            select.select([other], [], [])
            sys.exit(77)
    """
    assert job.start(2, program).end() == (77, "", "")


@pytest.mark.parametrize("status", [1, 2, 77])
def test_a_verdict_that_rank_0_cannot_tell_is_reported(job, status):
    program = f"""
        with cluster.enter() as ranks:
            if ranks.rank == 1:
                print("my reason")
                sys.exit({status})
            ranks.barrier()
    """
    assert job.start(3, program).end() == (
        status,
        "",
        (
            f"pgctl: rank 1 of 3 (pid <pid>) exited with status {status} "
            "while others waited for it in barrier\n[rank 1] my reason\n"
        ),
    )


def test_rank_0_may_pass_while_another_fails(job):
    program = """
        with cluster.enter() as ranks:
            sys.exit(ranks.rank == 1)
    """
    report = "pgctl: rank 1 of 2 (pid <pid>) exited with status 1\n"
    assert job.start(2, program).end() == (1, "", report)


def test_what_others_suffer_from_the_verdict_of_rank_0_is_no_failure(job):
    program = """
        import select
        with cluster.enter() as ranks:
            pids = [int.from_bytes(p) for p in ranks.allgather(os.getpid().to_bytes(4))]
            if ranks.rank == 0:
                ranks.barrier()
                sys.exit(77)
            first = os.pidfd_open(pids[0])
            ranks.barrier()
            select.select([first], [], [])
            sys.exit(3)
    """
    assert job.start(3, program).end() == (77, "", "")


def test_an_exception_with_an_exit_code_is_a_verdict(job):
    program = """
        class Skip(Exception):
            exit_code = 77

        try:
            with cluster.enter() as ranks:
                raise Skip
        except Skip as skip:
            sys.exit(skip.exit_code)
    """
    assert job.start(2, program).end() == (77, "", "")


# Failures: what ranks suffer


def test_a_killed_rank_takes_the_others_down(job):
    program = """
        with cluster.enter() as ranks:
            for n in range(30):
                print("line", n)
            mark(f"pid.{ranks.rank}", os.getpid())
            if ranks.rank < 2:
                ranks.allgather(b"never")
            hang()
    """
    job.start(4, program, stdout=subprocess.DEVNULL)
    victim = job.pids(4)[2]
    os.kill(victim, signal.SIGKILL)
    status, _, err = job.end()
    tail = "".join(f"[rank 2] line {n}\n" for n in range(10, 30))
    assert status == 3
    assert err == "pgctl: rank 2 of 4 (pid <pid>) was killed by SIGKILL\n" + tail


@pytest.mark.parametrize("rank", [0, 2])
@pytest.mark.parametrize(
    ("end", "what"),
    [
        ("os.kill(os.getpid(), signal.SIGSEGV)", "was killed by SIGSEGV"),
        ("os.kill(os.getpid(), signal.SIGTERM)", "was killed by SIGTERM"),
        ("os._exit(3)", "exited with status 3"),
        ("sys.exit(3)", "exited with status 3"),
        ("sys.exit(255)", "exited with status 255"),
        ("sys.exit(0)", "exited with status 0 while others waited for it in barrier"),
        ("ranks.close(); hang()", "left while others waited for it in barrier"),
        ("ranks.abort('no memory')", "aborted: no memory"),
        ("ranks._sock.send(bytes(16)); hang()", "0 is not a kind of frame"),
    ],
)
def test_a_rank_that_fails_ends_all(job, rank, end, what):
    program = f"""
        import faulthandler
        with cluster.enter() as ranks:
            faulthandler.disable()
            ranks.barrier()
            if ranks.rank == {rank}:
                {end}
            ranks.barrier()
    """
    report = f"pgctl: rank {rank} of 3 (pid <pid>) {what}\n"
    assert job.start(3, program).end() == (3, "", report)


def test_ranks_must_make_the_same_call(job):
    program = """
        with cluster.enter() as ranks:
            if ranks.rank:
                ranks.barrier()
            else:
                ranks.allgather(b"")
    """
    status, out, err = job.start(2, program).end()
    assert (status, out) == (3, "")
    assert err in {
        "pgctl: rank 0 of 2 (pid <pid>) called allgather while others are in barrier\n",
        "pgctl: rank 1 of 2 (pid <pid>) called barrier while others are in allgather\n",
    }


def test_an_exception_is_no_verdict(job):
    program = """
        with cluster.enter() as ranks:
            if ranks.rank == 1:
                raise ValueError("seven is odd")
            ranks.barrier()
    """
    status, out, err = job.start(2, program).end()
    report, *tail = err.splitlines()
    assert (status, out) == (3, "")
    assert report == "pgctl: rank 1 of 2 (pid <pid>) failed: ValueError: seven is odd"
    assert tail[0] == "[rank 1] Traceback (most recent call last):"
    assert tail[-1] == "[rank 1] ValueError: seven is odd"


def test_a_rank_that_fails_before_it_joins_gives_no_verdict(job):
    program = """
        if os.environ["PGCTL_RANK"] == "1":
            sys.exit("no such module")
        with cluster.enter() as ranks:
            ranks.barrier()
    """
    assert job.start(2, program).end() == (
        3,
        "",
        (
            "pgctl: rank 1 of 2 (pid <pid>) exited with status 1 before it joined the others\n"
            "[rank 1] no such module\n"
        ),
    )


@pytest.mark.parametrize("first", ["cause", "victim"])
def test_the_cause_is_reported_and_not_its_victims(job, first):
    program = f"""
        import select
        with cluster.enter() as ranks:
            pids = [int.from_bytes(p) for p in ranks.allgather(os.getpid().to_bytes(4))]
            first, second = (2, {{0, 1, 3}}) if "{first}" == "cause" else (1, {{2}})
            waits = os.pidfd_open(pids[first]) if ranks.rank in second else None
            ranks.barrier()
            if waits:
                select.select([waits], [], [])
            if ranks.rank == 2:
                os.kill(os.getpid(), signal.SIGKILL)
            os._exit(5)
    """
    report = "pgctl: rank 2 of 4 (pid <pid>) was killed by SIGKILL\n"
    assert job.start(4, program, settle_s=PATIENCE_S).end() == (3, "", report)


def test_ranks_that_ignore_sigterm_are_killed(job):
    program = """
        with cluster.enter() as ranks:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            ranks.barrier()
            if ranks.rank == 1:
                sys.exit(3)
            hang()
    """
    report = "pgctl: rank 1 of 3 (pid <pid>) exited with status 3\n"
    assert job.start(3, program).end() == (3, "", report)


def test_a_launcher_that_inherits_an_ignored_sigchld_still_sees_how_ranks_end(job):
    program = """
        with cluster.enter() as ranks:
            sys.exit(7 * ranks.rank)
    """
    ignore = "import os, signal, sys; signal.signal(signal.SIGCHLD, signal.SIG_IGN);"
    ignore += "os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
    report = "pgctl: rank 1 of 2 (pid <pid>) exited with status 7\n"
    assert job.start(2, program, via=ignore).end() == (3, "", report)


def test_a_stopped_rank_does_not_hold_up_the_answers_to_others(job):
    program = """
        from pgctl.cluster.frames import Frame, Kind
        with cluster.enter() as ranks:
            mark(f"pid.{ranks.rank}", os.getpid())
            if ranks.rank == 0:
                ranks._send(Frame(Kind.ALLGATHER, bytes(4 << 20), 60_000), time.monotonic() + 60)
                os.kill(os.getpid(), signal.SIGSTOP)
            else:
                assert len(ranks.allgather(bytes(4 << 20))[0]) == 4 << 20
                mark(f"got.{ranks.rank}")
    """
    job.start(3, program)
    job.marked("got.1")
    job.marked("got.2")
    os.kill(job.marked("pid.0"), signal.SIGKILL)
    report = "pgctl: rank 0 of 3 (pid <pid>) was killed by SIGKILL\n"
    assert job.end() == (3, "", report)


def test_ranks_that_are_ended_clean_up(job):
    program = """
        with cluster.enter() as ranks:
            try:
                ranks.barrier()
                if ranks.rank == 1:
                    ranks.abort("enough")
                ranks.barrier()
            finally:
                mark(f"clean.{ranks.rank}")
    """
    status, _, _ = job.start(3, program).end()
    assert status == 3
    assert [path.name for path in sorted(job.folder.glob("clean.*"))] == [
        f"clean.{rank}" for rank in range(3)
    ]


def test_a_deadline_names_the_ranks_that_are_late(job):
    program = """
        with cluster.enter() as ranks:
            mark(f"pid.{ranks.rank}", os.getpid())
            if ranks.rank == 2:
                os.kill(os.getpid(), signal.SIGSTOP)
            if ranks.rank == 3:
                hang()
            ranks.allgather(b"x", timeout=1.5)
    """
    status, _, err = job.start(4, program, stderr=subprocess.PIPE).end()
    assert status == 3
    late = "rank 2 (pid <pid>, stopped), rank 3 (pid <pid>)"
    reports = [line for line in err.splitlines() if line.startswith("pgctl: ")]
    assert len(reports) == 1
    assert reports[0].endswith(f" failed: allgather: {late} did not arrive within 1.5 s")


def test_a_timeout_is_a_timeout_error_and_breaks_the_cluster(job):
    program = """
        with cluster.enter(timeout=0.5) as ranks:
            if ranks.rank == 0:
                hang()
            for _ in range(2):
                try:
                    ranks.barrier()
                except TimeoutError as error:
                    assert isinstance(error, cluster.ClusterTimeout)
                    print(error)
                except cluster.ClusterError as error:
                    print("broken:", error)
            sys.exit(3)
    """
    status, _, err = job.start(2, program).end()
    late = "barrier: rank 0 (pid <pid>) did not arrive within 0.5 s"
    assert (status, err) == (
        3,
        (
            "pgctl: rank 1 of 2 (pid <pid>) exited with status 3\n"
            f"[rank 1] {late}\n[rank 1] broken: {late}\n"
        ),
    )


# Interrupts


WAITING = """
with cluster.enter() as ranks:
    mark(f"pid.{ranks.rank}", os.getpid())
    if ranks.rank:
        ranks.barrier()
    hang()
"""


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_a_signal_to_the_launcher_ends_all_quietly(job, number, status):
    job.start(3, WAITING).pids(3)
    job.process.send_signal(number)
    assert job.end() == (status, "", "")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_the_whole_group_is_the_same(job, number):
    job.start(3, WAITING, start_new_session=True).pids(3)
    os.killpg(job.process.pid, number)
    assert job.end() == (128 + number, "", "")


def test_an_interrupt_finds_ranks_that_have_not_joined(job):
    program = """
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # time to show what SIGINT does
        mark("pid." + os.environ["PGCTL_RANK"], os.getpid())
        hang()
    """
    job.start(2, program, start_new_session=True).pids(2)
    os.killpg(job.process.pid, signal.SIGINT)
    assert job.end() == (130, "", "")


def test_an_interrupt_is_heard_over_a_rank_that_never_stops_talking(job):
    program = """
        with cluster.enter() as ranks:
            mark(f"pid.{ranks.rank}", os.getpid())
            while ranks.rank:
                os.write(1, b"x" * 79 + b"\\n")
            hang()
    """
    job.start(3, program).pids(3)
    job.process.send_signal(signal.SIGINT)
    assert job.end() == (130, "", "")


def test_a_second_interrupt_does_not_wait(job):
    program = """
        def stay(*_):
            mark(f"asked.{ranks.rank}")

        with cluster.enter() as ranks:
            signal.signal(signal.SIGTERM, stay)
            mark(f"pid.{ranks.rank}", os.getpid())
            hang()
    """
    job.start(2, program).pids(2)
    job.process.send_signal(signal.SIGINT)
    job.marked("asked.0")
    job.process.send_signal(signal.SIGINT)
    assert job.end() == (130, "", "")


def test_ctrl_c_on_a_terminal(job):
    ours, theirs = os.openpty()
    attach = "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0);"
    attach += "os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
    job.start(
        2, WAITING, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True, via=attach
    )
    os.close(theirs)
    job.pids(2)
    os.write(ours, b"\x03")
    assert job.process.wait(PATIENCE_S) == 130
    assert job.left() == []
    assert read_all(ours) == b"^C"


def read_all(fd):
    data = b""
    try:
        while chunk := os.read(fd, 4096):
            data += chunk
    except OSError:  # how a terminal says that nobody is at the other end
        pass
    os.close(fd)
    return data


def test_ranks_stay_in_the_launchers_process_group(job):
    program = """
        with cluster.enter() as ranks:
            assert os.getpgid(0) == os.getpgid(os.getppid())
    """
    assert job.start(2, program, start_new_session=True).end() == (0, "", "")


def test_no_rank_outlives_a_killed_launcher(job):
    job.start(4, WAITING, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).pids(4)
    job.process.kill()
    job.process.wait()
    eventually(lambda: job.left() == [])


def test_no_rank_joins_a_launcher_that_is_dead_already(job):
    program = """
        parent = os.getppid()
        mark("pid." + os.environ["PGCTL_RANK"], os.getpid())
        while os.getppid() == parent:
            time.sleep(0.01)
        cluster.enter()
        mark("joined")
        hang()
    """
    job.start(2, program, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).pids(2)
    job.process.kill()
    job.process.wait()
    eventually(lambda: job.left() == [])
    assert not (job.folder / "joined").exists()


def test_a_reader_that_leaves_ends_all_quietly(job):
    program = """
        with cluster.enter() as ranks:
            if ranks.rank == 0:
                try:
                    while True:
                        print("a line", flush=True)
                except BrokenPipeError:
                    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
                    sys.exit(1)
            ranks.barrier()
    """
    job.start(3, program)
    assert job.process.stdout.readline() == "a line\n"
    job.process.stdout.close()
    assert job.process.stderr.read() == ""
    assert job.process.wait(PATIENCE_S) == 141
