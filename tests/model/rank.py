"""A rank: a process that does what it is told, one command of JSON a line, and checks what it sees.

It answers {"n": the command's, "answer": …} when it can, which for some commands is later than for
others that came after. What must never be is told as {"wrong": …}, at once. Between commands it
sleeps on the engine's wait_fd, as an event loop does.
"""

from __future__ import annotations

import contextlib
import errno
import faulthandler
import gc
import json
import os
import re
import select
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from program import HEADER, SIZES, Json, Piece, page_indices, pieces

from pgctl._ffi import lib
from pgctl.engine import (
    Barrier,
    Fence,
    GroupConfig,
    MrDesc,
    NicConfig,
    PagedWrites,
    Pages,
    PgBusy,
    PgError,
    PgStale,
    Scatter,
    Send,
    Slice,
    TransferEngine,
    Work,
    Write,
)

APART = 0x1000  # counters that nobody writes to, from here on
_TABLE_BITS = 22
_TABLE = np.random.default_rng(0).integers(0, 256, (1 << _TABLE_BITS) + SIZES[-1], np.uint8)
USED = 0xEE


def pattern(key: int, length: int) -> Any:
    """Bytes that a piece alone has."""
    at = key * 0x9E3779B97F4A7C15 % (1 << 64) >> (64 - _TABLE_BITS)
    return _TABLE[at : at + length]


def message(op: Json) -> bytes:
    body = pattern(pieces(op)[0].key, op["len"] - HEADER).tobytes()
    return op["id"].to_bytes(HEADER, "little") + body


def accepted() -> set[str]:
    """Sockets of TCP that are not listened at."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return {f"socket:[{row[9]}]" for row in rows if row[3] != "0A"}


def held() -> Json:
    """What a process that has no engine has.

    But for sockets that libfabric's tcp had accepted and not looked at when their endpoint was
    closed: 1.17 forgets them. The engine has none on one host.
    """
    maps = Path("/proc/self/maps").read_text(encoding="utf-8").splitlines()
    children = [path.read_text() for path in Path("/proc/self/task").glob("*/children")]
    fds = []
    for fd in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):  # the listing's own
            fds.append(str(fd.readlink()))
    fds = [fd for fd in fds if fd not in accepted()]
    return {
        "fds": sorted(fds),
        "maps": sum("memfd:" in line or "/dev/shm" in line for line in maps),
        "threads": len([*Path("/proc/self/task").iterdir()]),
        "children": "".join(children).split(),
    }


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


class Region:
    def __init__(self, engine: TransferEngine, kind: str, size: int) -> None:
        self.array = np.zeros(size, np.uint8) if kind == "numpy" else None
        self.kind = kind
        self.region = engine.alloc_mr(size) if self.array is None else engine.reg_mr(self.array)
        self.shadow = np.zeros(size, np.uint8)
        self.revoked = False

    def differs(self, at: int, expected: Any) -> str | None:
        """Where the memory is not as expected."""
        memory = self.region.numpy()[at : at + len(expected)]
        if np.array_equal(memory, expected):
            return None
        where = np.flatnonzero(memory != expected)
        first = int(where[0])
        return (
            f"{len(where)} bytes of [{at}, {at + len(expected)}) are wrong, from {at + first} on: "
            f"{memory[first : first + 8].tobytes().hex()} for "
            f"{np.asarray(expected)[first : first + 8].tobytes().hex()}"
        )


class Expectation:
    """Those of one counter, armed one after the other."""

    def __init__(self, command: Json) -> None:
        self.command = command
        self.left = list(command["parts"])
        self.statuses: list[int | None] = []
        self.op: Any = None


def names_beyond(piece: str, nics: int) -> bool:
    named = re.search(r"=nic(\d)", piece)
    return bool(named) and int(named[1]) >= nics


class Rank:
    def __init__(self, transport: str) -> None:
        self.transport = transport
        # What is loaded once is there.
        TransferEngine(transport=transport, progress="inline").close()
        gc.collect()
        self.before = held()
        self.engine: TransferEngine | None = None
        self.waiting: list[tuple[int, Callable[[], Any]]] = []
        self.line = b""

    # ---- Life

    def do_make(self, c: Json) -> Json:
        rank = c["config"]
        os.environ["PGCTL_SHM_CMA"] = "0" if rank["bounce"] else "1"
        os.environ.update(c["environ"])
        nics = [
            NicConfig(transport=self.transport, device=device, link_mbit_s=mbit)
            for device, mbit in zip(c["devices"], rank["nics"], strict=True)
        ]
        impair = dict(c["impair"])
        if impair:  # what is said of NICs that this rank has not is for others
            said = impair["impair"].split(",")
            impair["impair"] = ",".join(p for p in said if not names_beyond(p, len(nics))) or "none"
        group = GroupConfig(nics=nics, progress=rank["progress"], **impair)
        self.rank = c["rank"]
        self.engine = TransferEngine(
            [group],
            op_timeout=c["op_timeout"],
            heartbeat=0.1,
            silent=0.5,
            goodbye=1.0,
            max_ops=rank["max_ops"],
        )
        self.engine.submit_recvs(*rank["pool"])
        self.pool = rank["pool"][0]
        self.regions = [Region(self.engine, kind, rank["size"]) for kind in rank["regions"]]
        self.left: list[tuple[Any, Any]] = []
        size = 2 * rank["size"]
        engine_owned = rank["source"] == "engine"
        self.source = (
            self.engine.alloc_mr(size)
            if engine_owned
            else self.engine.reg_mr(np.zeros(size, np.uint8))
        )
        self.peers: dict[int, Any] = {}
        self.descs: dict[tuple[int, int, bool], MrDesc] = {}
        self.flying: dict[int, tuple[Any, Json]] = {}
        self.ended: dict[int, Any] = {}
        self.expected: dict[int, Expectation] = {}
        self.arrived: list[list[int]] = []
        return {"address": self.engine.main_address().hex(), "descs": self.own_descs()}

    def own_descs(self) -> list[str]:
        return [region.region.desc.hex() for region in self.regions]

    def do_know(self, c: Json) -> None:
        for rank, address in c["peers"]:
            self.peers[rank] = self.engine.add_peer(bytes.fromhex(address))
            for key in [key for key in self.descs if key[0] == rank]:
                del self.descs[key]
        for rank, region, text in c["descs"]:
            desc = MrDesc(bytes.fromhex(text))
            now = self.descs.get((rank, region, False))
            if now is not None and now != desc:
                self.descs[rank, region, True] = now
            self.descs[rank, region, False] = desc

    def do_bye(self, _: Json) -> Json:
        """What was in flight ends with it."""
        stats = self.stats()
        self.waiting.clear()
        self.engine.close()
        self.look()
        if self.flying:
            self.wrong(f"operations {[*self.flying]} have not ended, and the engine is closed")
        for expected in self.expected.values():
            if expected.op is not None and expected.op.status is None:
                self.wrong(f"an expectation has not ended, and the engine is closed: {expected.op}")
        self.engine = self.regions = self.source = self.left = self.peers = None  # type: ignore[assignment]
        self.expected, self.flying = {}, {}
        gc.collect()
        after = held()
        for what, before in self.before.items():
            if after[what] != before:
                self.wrong(f"{what} are left of a closed engine: {before} became {after[what]}")
        return {"ended": self.take_ended(), "stats": stats, "rss": resident()}

    def stats(self) -> Json:
        nics = self.engine.stats()
        names = "bytes_out", "posted", "eagain", "retries", "failovers"
        return {name: sum(getattr(nic, name) for nic in nics) for name in names}

    def do_dump(self, _: Json) -> str:
        return self.engine.dump() if self.engine else ""

    # ---- Operations

    def work(self, op: Json) -> Work:
        imm, src = op.get("imm"), self.source
        limit = op["limit_ms"] / 1000 if op.get("limit_ms") else None
        more = {"limit": limit, "remote_visible": op.get("visible", False)}
        stale = op.get("stale", False)
        if stale and (op["to"], op["region"], True) not in self.descs:
            raise PgStale("its owner is another one by now")
        if op["kind"] == "write":
            dst = self.descs[op["to"], op["region"], stale], op["at"]
            return Write(op["len"], imm, (src, op["src"]), dst, **more)
        if op["kind"] == "paged":
            srcs, dsts = (np.array(indices, np.uint32) for indices in page_indices(op))
            remote = self.descs[op["to"], op["region"], False]
            ours = Pages(src, srcs, op["page"], op["src"])
            theirs = Pages(remote, dsts, op["stride"], op["at"])
            return PagedWrites(op["page"], imm, ours, theirs, **more)
        if op["kind"] == "scatter":
            slices = [
                Slice(p.length, p.src, self.descs[p.to, p.region, False], p.at) for p in pieces(op)
            ]
            return Scatter(imm, src, slices, op["spread"], **more)
        if op["kind"] == "barrier":
            return Barrier(imm, [self.peers[to] for to in op["to"]], **more)
        if op["kind"] == "send":
            return Send(self.peers[op["to"]], message(op), **more)
        return Fence(self.peers[op["to"]], limit=limit)

    def fill(self, piece: Piece, value: Any) -> None:
        if piece.region is not None:
            self.source.numpy()[piece.src : piece.src + piece.length] = value

    def do_submit(self, c: Json) -> None:
        todo = []
        for op in c["ops"]:
            for piece in pieces(op):
                if piece.region is not None:
                    self.fill(piece, pattern(piece.key, piece.length))
            try:
                todo.append((op, self.work(op)))
            except PgError as error:
                self.ended[op["id"]] = {"refused": error.code}
        while todo:
            cookies = [op["id"] if op["cookie"] else None for op, _ in todo]
            try:
                ops = self.engine.submit_batch([work for _, work in todo], cookies=cookies)
            except PgError as error:
                self.ended[todo.pop(0)[0]["id"]] = {"refused": error.code}
                continue
            for (op, _), its in zip(todo, ops, strict=False):
                self.flying[op["id"]] = its, op
                if op.get("cancel_now"):
                    its.cancel()
            del todo[: len(ops)]

    def do_cancel(self, c: Json) -> bool:
        its = self.flying.get(c["id"])
        return bool(its and its[0].cancel())

    def do_connect(self, c: Json) -> int:
        try:
            self.peers[c["to"]].connect(c["timeout"])
        except PgError as error:
            return error.code
        return 0

    # ---- Counters and memory

    def do_expect(self, c: Json) -> None:
        self.expected[c["imm"]] = Expectation(c)
        self.arm(self.expected[c["imm"]])

    def arm(self, expected: Expectation) -> None:
        c = expected.command
        named = {}
        if c["owes"]:
            named = {
                "from_": [self.peers[r] for r, _ in c["owes"]],
                "owes": [n for _, n in c["owes"]],
            }
        cookie = ("imm", c["imm"]) if c["cookie"] else None
        try:
            expected.op = self.engine.expect_imm_count(
                c["imm"], expected.left.pop(0), cookie=cookie, **named
            )
        except PgError as error:
            expected.op = None
            expected.statuses.append(-error.code)
            expected.left.clear()

    def fired(self, expected: Expectation) -> None:
        """All that it is about is to be seen, once the last part is counted."""
        if self.engine.closed:
            return
        if expected.left:
            self.arm(expected)
            return
        for key, number, at, length in expected.command["covers"]:
            region = self.regions[number]
            if region.revoked:
                continue
            if bad := region.differs(at, pattern(key, length)):
                self.wrong(f"counted, and not there: piece {key} in region {number}: {bad}")

    def do_free(self, c: Json) -> None:
        self.engine.counter(c["imm"]).free()
        expected = self.expected.get(c["imm"])
        if expected:  # what it has subtracted already says nothing of the rest
            expected.left.clear()
            expected.command["covers"] = []

    def do_revoke(self, c: Json) -> None:
        self.regions[c["region"]].revoked = True

    def go_on_revoking(self) -> None:
        for region in self.regions:
            if region.revoked and not region.region.closed:
                with contextlib.suppress(PgBusy):
                    region.region.close(0)
                if region.region.closed and region.array is not None:
                    self.left.append((region.array, region.array.copy()))

    def do_renew(self, _: Json) -> list[str]:
        """Regions anew where they were revoked; all descriptors."""
        for i, region in enumerate(self.regions):
            if region.revoked:
                self.regions[i] = Region(self.engine, region.kind, len(region.shadow))
        return self.own_descs()

    # ---- What the end of a round asks

    def quiet(self) -> bool:
        revoking = any(r.revoked and not r.region.closed for r in self.regions)
        return not self.flying and not revoking

    def do_quiet(self, _: Json) -> Callable[[], Any]:
        return lambda: {"ended": self.take_ended()} if self.quiet() else None

    def take_ended(self) -> list[Any]:
        ended, self.ended = [*self.ended.items()], {}
        return ended

    def do_passed(self, c: Json) -> list[int]:
        """Which of these fences have ended well, at one that we have not lost."""
        self.look()
        well = [n for n in c["ids"] if self.ended.get(n, {}).get("status") == 0]
        return well if self.peers[c["to"]].info().up else []

    def do_fence(self, c: Json) -> Callable[[], Any]:
        fences = {to: self.engine.fence(self.peers[to]) for to in c["to"]}

        def look() -> Any:
            if all(op.seen() for op in fences.values()):
                return [(to, -op.status) for to, op in fences.items()]
            return None

        return look

    def do_apart(self, c: Json) -> Callable[[], Any]:
        """Once what these have sent is counted, and no more of it will be.

        An expectation of one that is down ends just then. One that never was up has sent nothing.
        """
        ends = {
            self.peers[r]: self.engine.expect_imm_count(APART + r, 1, from_=[self.peers[r]])
            for r in c["ranks"]
        }

        def look() -> Any:
            for peer, op in ends.items():
                info = peer.info()
                if op.seen() and op.status != -errno.EHOSTDOWN:
                    self.wrong(f"who expects a dead peer has {op}")
                if not op.seen() and (info.up or info.status):
                    return None
            for r in c["ranks"]:
                self.engine.counter(APART + r).free()
            return True

        return look

    def do_infos(self, _: Json) -> Any:
        infos = [(rank, peer.info()) for rank, peer in self.peers.items()]
        return [(rank, info.up, -info.status, info.reason) for rank, info in infos]

    def do_messages(self, c: Json) -> Callable[[], Any]:
        """Once these have arrived."""

        def look() -> Any:
            have = {number for number, *_ in self.arrived}
            if not have.issuperset(c["ids"]):
                return None
            arrived, self.arrived = self.arrived, []
            return arrived

        return look

    def do_counts(self, c: Json) -> Any:
        self.look()
        values = [(imm, self.engine.counter(imm).value) for imm in c["imms"]]
        self.look()
        return {"values": values, "expected": [(i, e.statuses) for i, e in self.expected.items()]}

    def do_verify(self, c: Json) -> None:
        for number, region in enumerate(self.regions):
            if region.revoked:
                continue
            memory, shadow = region.region.numpy(), region.shadow
            for key, _, at, length in (each for each in c["exact"] if each[1] == number):
                shadow[at : at + length] = pattern(key, length)
            for _, at, length in (each for each in c["undefined"] if each[0] == number):
                shadow[at : at + length] = memory[at : at + length]
            if bad := region.differs(0, shadow):
                self.wrong(f"at the end of a round, in region {number}: {bad}")
        for array, snapshot in self.left:
            if not np.array_equal(array, snapshot):
                at = int(np.flatnonzero(array != snapshot)[0])
                self.wrong(f"somebody wrote at {at} of a region that was revoked")

    def do_drain(self, c: Json) -> Any:
        """Every counter at 0, by being expected or by being freed; what ended otherwise."""
        for imm in c["imms"]:
            counter = self.engine.counter(imm)
            expected = self.expected.pop(imm, None)
            waits = expected is not None and expected.op is not None and expected.op.status is None
            value = counter.value
            if waits or (value and imm % 2):
                counter.free()
                if waits and not self.ends(expected.op, -errno.ECANCELED):
                    self.wrong(f"imm {imm:#x} is free, and who expected it has {expected.op}")
            elif value and not self.ends(counter.expect(value), 0):
                self.wrong(f"imm {imm:#x} is {value}, and expecting that gives {value} left")
            if counter.value:
                self.wrong(f"imm {imm:#x} is {counter.value}, and was brought to 0")

    def ends(self, op: Any, status: int) -> bool:
        """At once; an event comes with the next look."""
        self.look()
        return bool(op.seen()) and op.status == status

    # ---- Looking

    def look(self) -> None:
        if not self.engine.closed:
            self.engine.progress()
            for event in self.engine.poll_events():
                self.event(event)
        for number, (its, op) in [*self.flying.items()]:
            if its.seen():
                del self.flying[number]
                statuses = its.statuses
                self.ended[number] = {
                    "status": -its.status,
                    "statuses": statuses and [-status for status in statuses],
                    "error": str(its.error or ""),
                }
                if not self.engine.closed:
                    for piece in pieces(op):  # nobody reads its source any more
                        self.fill(piece, USED)
        for expected in self.expected.values():
            while expected.op is not None and expected.op.seen():
                expected.statuses.append(expected.op.status)
                expected.op = None
                if expected.statuses[-1] == 0:
                    self.fired(expected)
                else:
                    expected.left.clear()
        if not self.engine.closed:
            self.go_on_revoking()

    def event(self, event: Any) -> None:
        if event.kind in {"op", "imm"} and event.cookie is None:
            self.wrong(f"an operation that has ended ends again: {event}")
        if event.kind == "recv":
            who = [rank for rank, peer in self.peers.items() if peer == event.peer]
            number = int.from_bytes(event.data[:HEADER], "little")
            body = event.data[HEADER:]
            if (
                body
                != pattern(
                    pieces({"id": number, "kind": "send", "to": 0})[0].key, len(body)
                ).tobytes()
            ):
                self.wrong(f"message {number} of {len(event.data)} bytes is damaged")
            self.arrived.append([number, who[0] if who else -1, len(event.data), -event.status])

    # ---- Talking

    def say(self, what: Json) -> None:
        sys.stdout.write(json.dumps(what) + "\n")
        sys.stdout.flush()

    def wrong(self, what: str) -> None:
        self.say({"wrong": what})

    def obey(self, c: Json) -> None:
        answer = getattr(self, "do_" + c["do"])(c)
        if callable(answer):
            self.waiting.append((c["n"], answer))
        else:
            self.say({"n": c["n"], "answer": answer})

    def commands(self, timeout: float) -> bool:
        """Take what there is; whether the other end is there."""
        fds = [0]
        if self.engine:
            fds.append(lib.pg_wait_fd(self.engine.native()))
        if not select.select(fds, [], [], timeout)[0].count(0):
            return True
        more = os.read(0, 1 << 20)
        *lines, self.line = (self.line + more).split(b"\n")
        for line in lines:
            self.obey(json.loads(line))
        return bool(more)

    def serve(self) -> None:
        more = True
        while more:
            armed = True
            if self.engine:
                self.look()
                for item in [*self.waiting]:
                    if (answer := item[1]()) is not None:
                        self.waiting.remove(item)
                        self.say({"n": item[0], "answer": answer})
                armed = lib.pg_wait_arm(self.engine.native()) == 1
            more = self.commands(0.02 if self.engine and armed else 0.0 if self.engine else 60.0)


if __name__ == "__main__":
    faulthandler.register(signal.SIGUSR1)
    Rank(sys.argv[1]).serve()
