"""Runs a program: makes its ranks, does its steps, and has the model judge each round."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import fields
from pathlib import Path
from typing import Any

from model import Model, Round
from over import Over
from program import IMMS, Json, effective, operations, pieces

from pgctl.engine import GroupConfig

OP_TIMEOUT_S = 20.0
DEADLINE_S = 45.0  # of each step: longer than the engine gives an operation
GROWTH = 64 << 20  # of a process over many programs


class Failure(Exception):  # noqa: N818 - a program fails, the test does not err
    """What did not hold; `dumps` say what was in flight."""

    dumps = ""


class Process:
    """One that plays ranks, one after the other."""

    def __init__(self, over: Over) -> None:
        self.errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed by kill
        self.child = subprocess.Popen(
            [sys.executable, Path(__file__).with_name("rank.py"), over.transport],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            bufsize=0,
            env=os.environ | {"OPENBLAS_NUM_THREADS": "1"} | over.environ,
        )
        self.said = b""
        self.n = 0
        self.answers: dict[int, Any] = {}
        self.resident: list[int] = []

    def tell(self, do: str, /, **more: Any) -> int:
        self.n += 1
        line = json.dumps({"n": self.n, "do": do} | more) + "\n"
        with contextlib.suppress(BrokenPipeError):  # told by answer()
            self.child.stdin.write(line.encode())
        return self.n

    def answer(self, n: int, seconds: float = DEADLINE_S) -> Any:
        end = time.monotonic() + seconds
        while n not in self.answers:
            left = end - time.monotonic()
            if left < 0 or not select.select([self.child.stdout], [], [], left)[0]:
                raise Failure(f"process {self.child.pid} hangs: no answer in {seconds} s")
            self.hear()
        return self.answers.pop(n)

    def hear(self) -> None:
        more = os.read(self.child.stdout.fileno(), 1 << 20)
        if not more:
            code = self.child.wait(DEADLINE_S)
            raise Failure(f"process {self.child.pid} ended with {code}: {self.stderr()}")
        *lines, self.said = (self.said + more).split(b"\n")
        for said in map(json.loads, lines):
            if "wrong" in said:
                raise Failure(said["wrong"])
            self.answers[said["n"]] = said["answer"]

    def stderr(self) -> str:
        self.errors.seek(0)
        return self.errors.read().decode(errors="replace")[-4000:]

    def last_words(self) -> str:
        """What the engine says is in flight; else where the process is."""
        self.child.send_signal(signal.SIGCONT)
        with contextlib.suppress(Failure):
            return self.answer(self.tell("dump"), 3.0)
        self.child.send_signal(signal.SIGUSR1)
        time.sleep(0.2)  # a process that hangs cannot say when it has written this
        return self.stderr()

    def stop(self) -> None:
        self.child.send_signal(signal.SIGSTOP)
        os.waitpid(self.child.pid, os.WUNTRACED)

    def kill(self) -> None:
        self.child.kill()
        self.child.wait()
        for file in self.child.stdin, self.child.stdout, self.errors:
            file.close()


class Pool:
    """Processes that have no rank now, and what all of them have done."""

    def __init__(self, over: Over) -> None:
        self.over = over
        self.idle: list[Process] = []
        self.count: Counter[str] = Counter()
        self.reasons: Counter[str] = Counter()
        """Why peers were given up that were there."""

    def take(self) -> Process:
        return self.idle.pop() if self.idle else Process(self.over)

    def close(self) -> None:
        for process in self.idle:
            process.kill()
        self.idle.clear()


def impairment(spec: str, seed: int) -> Json:
    """For GroupConfig."""
    if not spec:
        return {}
    if "impair" not in {field.name for field in fields(GroupConfig)}:
        raise SystemExit(f"this build cannot impair a transport: {spec!r}")
    return {"impair": spec, "impair_seed": seed}


def left_behind() -> set[str]:
    """Named shared memory that may be ours."""
    return {path.name for path in Path("/dev/shm").iterdir() if "pgctl" in path.name}


class Run:
    def __init__(self, program: Json, pool: Pool) -> None:
        self.program = program
        self.pool = pool
        self.over = pool.over
        self.impair = impairment(self.over.impair, program["seed"])
        self.configs = program["ranks"]
        self.model = Model(self.configs, nics_may_fail=self.over.nics_may_fail)
        self.processes: list[Process | None] = [None] * len(self.configs)
        self.found: dict[int, Json] = {}
        self.asked: list[tuple[int, int]] = []

    def run(self) -> None:
        shm = left_behind()
        try:
            with self.over.trouble(self.program):
                self.do_rounds()
            self.part()
        except Failure as failure:
            failure.dumps = self.dumps()
            self.discard()
            raise
        except BaseException:
            self.discard()
            raise
        if more := left_behind() - shm:
            raise Failure(f"/dev/shm holds {more}")
        self.pool.count["programs"] += 1

    def do_rounds(self) -> None:
        self.meet(range(len(self.configs)))
        for number, steps in enumerate([*self.program["rounds"], []]):
            try:
                self.do_round(steps)
            except Failure as failure:
                failure.args = (f"round {number}: {failure}",)
                raise

    # ---- Talking to ranks

    def living(self) -> list[int]:
        return [rank for rank, process in enumerate(self.processes) if process]

    def tell(self, rank: int, do: str, /, **more: Any) -> tuple[int, int]:
        process = self.processes[rank]
        assert process
        return rank, process.tell(do, **more)

    def answer(self, ticket: tuple[int, int]) -> Any:
        rank, n = ticket
        process = self.processes[rank]
        assert process
        try:
            return process.answer(n)
        except Failure as failure:
            failure.args = (f"rank {rank}: {failure}",)
            raise

    def ask(self, ranks: Iterable[int], do: str, /, **more: Any) -> dict[int, Any]:
        """All at once; their answers."""
        tickets = [self.tell(rank, do, **more) for rank in ranks]
        return {ticket[0]: self.answer(ticket) for ticket in tickets}

    def hear_all(self) -> None:
        """Raise what processes have found, or how they ended."""
        for rank in self.living():
            self.ask([rank], "dump")

    def dumps(self) -> str:
        return "\n".join(
            f"---- rank {rank}, process {process.child.pid}\n{process.last_words()}"
            for rank, process in enumerate(self.processes)
            if process
        )

    def discard(self) -> None:
        for process in self.processes:
            if process:
                process.kill()

    # ---- Who is there

    def meet(self, ranks: Iterable[int]) -> None:
        """New incarnations of these; everybody knows everybody."""
        for rank in ranks:
            if not self.processes[rank]:
                self.processes[rank] = self.pool.take()
            self.model.started(rank)
        made = [
            self.tell(
                rank,
                "make",
                rank=rank,
                config=self.configs[rank],
                devices=self.over.devices(rank, len(self.configs[rank]["nics"])),
                environ=self.over.settings(self.program["seed"]),
                impair=self.impair,
                op_timeout=OP_TIMEOUT_S,
            )
            for rank in ranks
        ]
        for ticket in made:
            self.found[ticket[0]] = self.answer(ticket)
        everybody = range(len(self.configs))
        tickets = []
        for rank in everybody:
            new = [other for other in (everybody if rank in ranks else ranks) if other != rank]
            tickets.append(self.know(rank, new, [*new]))
        for ticket in tickets:
            self.answer(ticket)

    def know(self, rank: int, peers: list[int], owners: list[int]) -> tuple[int, int]:
        addresses = [(peer, self.found[peer]["address"]) for peer in peers]
        descs = [
            (owner, region, desc)
            for owner in owners
            if owner != rank
            for region, desc in enumerate(self.found[owner]["descs"])
        ]
        return self.tell(rank, "know", peers=addresses, descs=descs)

    def part(self) -> None:
        """Everybody leaves; the processes are there for others."""
        for rank, said in self.ask(self.living(), "bye").items():
            self.add_up(rank, said)
            process = self.processes[rank]
            self.processes[rank] = None
            self.pool.idle.append(process)

    def add_up(self, rank: int, said: Json) -> None:
        self.pool.count.update(said["stats"])
        process = self.processes[rank]
        process.resident.append(said["rss"])
        settled = process.resident[10:11] or [said["rss"]]
        if said["rss"] > settled[0] + GROWTH:
            raise Failure(f"rank {rank}: its process has grown: {process.resident[10:]}")

    # ---- Rounds

    def do_round(self, steps: list[Json]) -> None:
        steps = effective(steps)
        self.round = Round(steps)
        self.model.begin(self.round)
        self.asked.clear()
        self.stopped: dict[int, int] = {}
        for self.step, step in enumerate(steps):
            getattr(self, "do_" + step["do"], self.do_tell)(step)
        self.await_all()
        self.judge()
        self.model.apart |= self.lost
        self.model.up = self.connected
        self.clean()
        for _, op in operations(steps):
            self.pool.count["operations"] += 1
            self.pool.count["bytes"] += sum(piece.length for piece in pieces(op))

    def do_tell(self, step: Json) -> None:
        more = {key: value for key, value in step.items() if key not in {"do", "rank"}}
        if step["do"] == "connect":
            more["timeout"] = OP_TIMEOUT_S
        self.asked.append(self.tell(step["rank"], step["do"], **more))
        if step["do"] == "connect":
            failed = self.answer(self.asked.pop())
            if failed and not self.model.broken(step["rank"], step["to"]):
                code = errno.errorcode[failed]
                raise Failure(f"rank {step['rank']} does not connect to {step['to']}: {code}")

    def do_stop(self, step: Json) -> None:
        self.processes[step["rank"]].stop()
        self.stopped[step["rank"]] = self.step

    def do_cont(self, step: Json) -> None:
        """Nobody can have passed a fence at one that was stopped."""
        rank = step["rank"]
        since = self.round.steps[self.stopped.pop(rank) : self.step]
        for source in self.living():
            mine = [s for s in since if s["rank"] == source]
            fences = [op["id"] for _, op in operations(mine) if op["kind"] == "fence"]
            fences = [number for number in fences if self.round.ops[number][1]["to"] == rank]
            if fences and source not in self.stopped and frozenset((source, rank)) in self.model.up:
                for passed in self.ask([source], "passed", ids=fences, to=rank)[source]:
                    raise Failure(f"rank {source} has passed fence {passed} at one that is stopped")
        self.processes[rank].child.send_signal(signal.SIGCONT)

    def do_kill(self, step: Json) -> None:
        rank = step["rank"]
        self.processes[rank].kill()
        self.processes[rank] = None
        self.gone(rank)
        self.pool.count["kills"] += 1

    def do_bye(self, step: Json) -> None:
        rank = step["rank"]
        said = self.answer(self.tell(rank, "bye"))
        self.add_up(rank, said)
        self.round.outcomes |= dict(said["ended"])
        process = self.processes[rank]
        if any(step["do"] == "stop" for step in self.round.steps):
            process.kill()  # one that is stopped may yet write where it was
        else:
            self.pool.idle.append(process)
        self.processes[rank] = None
        self.gone(rank)

    def gone(self, rank: int) -> None:
        self.round.ended.add(rank)
        self.asked = [ticket for ticket in self.asked if ticket[0] != rank]

    def await_all(self) -> None:
        """Until nothing is under way any more."""
        for ticket in self.asked:
            self.answer(ticket)
        living = self.living()
        for said in self.ask(living, "quiet").values():
            self.round.outcomes |= dict(said["ended"])
        self.model.find_resets()
        tickets = [self.tell(rank, "fence", to=[r for r in living if r != rank]) for rank in living]
        self.fences = {ticket[0]: self.answer(ticket) for ticket in tickets}
        self.ask(living, "apart", ranks=[*self.round.ended])
        infos = self.ask(living, "infos")
        self.complain(w for rank, info in infos.items() for w in self.model.wrong_peers(rank, info))
        self.connected = {
            frozenset((r, o)) for r, info in infos.items() for o, up, *_ in info if up
        }
        lost = {
            frozenset((rank, other))
            for rank, info in infos.items()
            for other, _, code, _ in info
            if code and other in living
        }
        for rank in living:
            others = [other for other in living if frozenset((rank, other)) in lost]
            self.ask([rank], "apart", ranks=others)
        self.lost = lost
        self.count_lost(infos, lost)
        # Who gives a peer up does not take what it goes on to send until it has heard of that.
        if self.model.nics_may_fail:
            self.model.reset |= lost

    def count_lost(self, infos: dict[int, Any], lost: set[frozenset[int]]) -> None:
        """Once each, with why."""
        self.pool.count["lost"] += len(lost - self.model.apart)
        for rank, info in infos.items():
            for other, _, code, reason in info:
                if code and frozenset((rank, other)) in lost - self.model.apart:
                    self.pool.reasons[reason.partition("): ")[2]] += 1

    def judge(self) -> None:
        model = self.model
        self.complain(model.wrong_ends())
        for rank in self.living():
            self.complain(model.wrong_fences(rank, self.fences[rank]))
        imms = sorted({*IMMS})
        for rank, counts in self.ask(self.living(), "counts", imms=imms).items():
            self.complain(model.wrong_counts(rank, counts))
        messages = [
            self.tell(rank, "messages", ids=model.expected_messages(rank)) for rank in self.living()
        ]
        for ticket in messages:
            try:
                arrived = self.answer(ticket)
            except Failure as failure:
                ids = model.expected_messages(ticket[0])
                failure.args = (f"{failure}; it waits for messages {ids}",)
                raise
            self.complain(model.wrong_messages(ticket[0], arrived))
        memory = [self.tell(rank, "verify", **model.memory(rank)) for rank in self.living()]
        for ticket in memory:
            self.answer(ticket)

    def clean(self) -> None:
        """For the next round: counters at 0, regions, and all ranks there."""
        self.ask(self.living(), "drain", imms=sorted({*IMMS}))
        renewed = {rank for rank, _ in self.round.revoked} & {*self.living()}
        for rank, descs in self.ask(renewed, "renew").items():
            self.found[rank]["descs"] = descs
        for ticket in [self.know(rank, [], [*renewed]) for rank in self.living()]:
            self.answer(ticket)
        if self.round.ended:
            self.meet(sorted(self.round.ended))

    def complain(self, wrong: Iterable[str]) -> None:
        all_of_it = [*wrong]
        if all_of_it:
            self.hear_all()  # what follows from the end of a process is not the cause
            raise Failure("; ".join(all_of_it[:5]))
