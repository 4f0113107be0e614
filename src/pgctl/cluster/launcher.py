"""Runs a command as N local ranks and answers for how it ends.

The launcher is no rank. It is where the ranks meet, and it watches them: one selector holds a
socket, a pidfd and an output pipe per rank, and the launcher's own signals. The first rank that
fails takes the others down: SIGTERM after a moment in which a better explanation may come to
light, then SIGKILL. Should the launcher itself be killed, the kernel kills the ranks
(see local.join).
"""

from __future__ import annotations

import select
import selectors
import signal
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from functools import partial

from pgctl.cluster.base import COULD_NOT_RUN, VERDICTS, ClusterError, say
from pgctl.cluster.child import Child
from pgctl.cluster.frames import Frame, FrameError, Kind, encode
from pgctl.cluster.rendezvous import Rendezvous

DEFAULT_RANKS = 2

# Together they stay below the 5 s within which one dead rank ends all.
_SETTLE_S = 0.25  # the victims of a failure may be seen before its cause
_GRACE_S = 1.0  # to exit after leaving the others, or after rank 0 has given its verdict
_TERM_S = 2.0  # from SIGTERM to SIGKILL
_KILL_S = 1.0  # from SIGKILL to giving up on a process that the kernel holds

_INTERRUPTS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_OUTPUT_GONE = 128 + signal.SIGPIPE


def launch(
    ranks: int,
    argv: Sequence[str],
    *,
    command: Sequence[str] | None = None,
    verbose: bool = False,
) -> int:
    """Run `command` (by default this program) with `argv` as `ranks` processes.

    Returns the exit status of the whole, after every process has ended:

    - 0 when all ranks exit with 0;
    - 1, 2, 77 or 130 when a rank exits with it, rank 0's choice before the others';
    - 3 when a rank was killed, aborted, exited with any other status, or left others waiting;
    - 130, 143 or 129 after SIGINT, SIGTERM or SIGHUP; 141 when nobody reads stdout any more.

    What rank 0 could not tell the user itself is reported on stderr. verbose: pass the output
    of ranks above 0 on to stderr, instead of keeping its last lines for that report.

    Call it from the main thread: it handles signals until it returns. Raises ValueError when
    `ranks` is below 1, ClusterError when the processes cannot be started.
    """
    if ranks < 1:
        raise ValueError(f"the number of ranks must be at least 1, not {ranks}")
    if threading.current_thread() is not threading.main_thread():
        raise ClusterError("ranks can only be launched from the main thread")
    if command is None:
        command = (sys.executable, "-P", "-m", "pgctl")
    with ExitStack() as stack:
        signals = stack.enter_context(_signals_as_bytes())
        children = _start(ranks, [*command, *argv], verbose, stack)
        return stack.enter_context(closing(_Run(children, signals, verbose))).wait()


def _start(ranks: int, command: Sequence[str], verbose: bool, stack: ExitStack) -> list[Child]:
    """Start the ranks with SIGINT blocked, which they inherit: Ctrl-C never hits them."""
    children: list[Child] = []
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        for rank in range(ranks):
            on_line = partial(_say_for, rank) if verbose else None
            child = Child(rank, ranks, command, on_line)
            stack.callback(child.close)
            children.append(child)
    except OSError as error:
        raise ClusterError(f"cannot start rank {len(children)} of {ranks}: {error}") from error
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    return children


@contextmanager
def _signals_as_bytes() -> Iterator[socket.socket]:
    """Turn interrupts into bytes on a socket. What the caller ignores (nohup) stays ignored."""
    reader, writer = socket.socketpair()
    with reader, writer:
        reader.setblocking(False)
        writer.setblocking(False)
        before = {n: signal.getsignal(n) for n in _INTERRUPTS}
        handled = [n for n in _INTERRUPTS if before[n] is not signal.SIG_IGN]
        # Ignored, it would keep the statuses of the ranks from this process.
        before[signal.SIGCHLD] = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        wakeup = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
        for number in handled:
            signal.signal(number, lambda *_: None)
        try:
            yield reader
        finally:
            for number in [*handled, signal.SIGCHLD]:
                signal.signal(number, before[number] or signal.SIG_DFL)
            signal.set_wakeup_fd(wakeup)


@dataclass(frozen=True, slots=True)
class _Cause:
    """Why a run ends."""

    rank: int
    what: str
    status: int = COULD_NOT_RUN
    killed: bool = False
    """By a signal: that explains the complaints of other ranks, never the reverse."""


class _Run:
    def __init__(self, children: list[Child], signals: socket.socket, verbose: bool) -> None:
        self._children = children
        self._signals = signals
        self._verbose = verbose
        self._rendezvous = Rendezvous(len(children))
        self._timeout: Frame | None = None
        """The answer to all collective calls after one has timed out."""
        self._exited: list[Child] = []
        self._cause: _Cause | None = None
        self._interrupt: int | None = None
        self._steps: deque[tuple[float, signal.Signals | None]] = deque()
        """When to send which signal to the ranks; None: give them up."""
        self._terminating = False
        self._selector = selectors.DefaultSelector()
        self._watch(signals.fileno(), self._on_interrupt)
        for child in children:
            self._watch(child.sock.fileno(), partial(self._on_socket, child))
            self._watch(child.pidfd, partial(self._on_exit, child))
            if child.pipe is not None:
                self._watch(child.pipe.fileno(), partial(self._on_output, child))

    def close(self) -> None:
        self._selector.close()

    def wait(self) -> int:
        """Serve the ranks until the last has ended; return the status of the whole."""
        while len(self._exited) < len(self._children):
            for key, _ in self._selector.select(self._pause()):
                key.data()
            now = time.monotonic()
            if now >= self._rendezvous.deadline:
                self._expire()
            if not self._terminating:
                self._find_deserter(now)
            while self._steps and now >= self._steps[0][0]:
                number = self._steps.popleft()[1]
                if number is None:
                    return self._conclude()
                self._terminating = True
                for child in self._children:
                    child.kill(number)
        return self._conclude()

    def _pause(self) -> float | None:
        """Seconds until something is to be done even if nothing happens."""
        now = time.monotonic()
        times = [self._rendezvous.deadline]
        if self._steps:
            times.append(self._steps[0][0])
        if not self._terminating:
            left = (self._children[rank].left_at for rank in self._rendezvous.missing())
            times += [at + _GRACE_S for at in left if at is not None and at + _GRACE_S > now]
        return None if min(times) == float("inf") else max(min(times) - now, 0)

    # Events

    def _watch(self, fd: int, callback: Callable[[], None]) -> None:
        self._selector.register(fd, selectors.EVENT_READ, callback)

    def _forget(self, fd: int) -> None:
        with suppress(KeyError):
            self._selector.unregister(fd)

    def _on_interrupt(self) -> None:
        try:
            numbers = self._signals.recv(64)
        except BlockingIOError:
            return
        for number in numbers:
            if number not in _INTERRUPTS:
                continue
            if self._terminating:  # the user is in a hurry
                self._end_by(signal.SIGKILL)
            elif self._interrupt is None:
                self._interrupt = 128 + number
                self._end_by(signal.SIGTERM)

    def _on_socket(self, child: Child) -> None:
        self._flush(child)
        try:
            for frame in child.receive():
                self._on_frame(child, frame)
        except FrameError as error:
            self._forget(child.sock.fileno())
            self._fail(_Cause(child.rank, str(error)))
        if child.left_at is not None:
            self._forget(child.sock.fileno())

    def _on_frame(self, child: Child, frame: Frame) -> None:
        match frame.kind:
            case Kind.JOIN:
                child.joined = True
            case Kind.ABORT | Kind.CRASH:
                verb = "aborted" if frame.kind is Kind.ABORT else "failed"
                reason = frame.body.decode(errors="replace")
                self._fail(_Cause(child.rank, f"{verb}: {reason}"))
            case Kind.ALLGATHER | Kind.BARRIER if self._timeout is not None:
                self._reply([child], self._timeout)
            case Kind.ALLGATHER | Kind.BARRIER:
                result = self._rendezvous.arrive(child.rank, frame, time.monotonic())
                if result is not None:
                    self._reply(self._children, result)
            case _:
                raise FrameError(f"sent a {frame.kind.label}, which is not for a rank to send")

    def _on_output(self, child: Child) -> None:
        if child.pipe is not None and not child.read_output():
            self._forget(child.pipe.fileno())

    def _on_exit(self, child: Child) -> None:
        if child in self._exited or not child.reap():
            return
        self._on_socket(child)  # its last words
        self._on_output(child)
        self._exited.append(child)
        for fd in (child.pidfd, child.sock.fileno()):
            self._forget(fd)
        status = child.status or 0
        if status == 128 + signal.SIGTERM:  # see local.join
            status = -signal.SIGTERM
        if status < 0:
            self._fail(_Cause(child.rank, f"was killed by {_signal_name(-status)}", killed=True))
        elif status == 1 and not child.joined:  # an interpreter that fails on the way here
            self._fail(_Cause(child.rank, "exited with status 1 before it joined the others"))
        elif status != 0 and status not in VERDICTS:
            self._fail(_Cause(child.rank, f"exited with status {status}"))
        elif status != 0 and child.rank == 0:
            self._end_by(signal.SIGTERM, after_s=_GRACE_S)

    # Answers

    def _reply(self, children: Sequence[Child], frame: Frame) -> None:
        data = encode(frame)
        for child in children:
            child.queue(data)
            self._flush(child)

    def _flush(self, child: Child) -> None:
        blocked = not child.flush()
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if blocked else 0)
        with suppress(KeyError):
            key = self._selector.get_key(child.sock.fileno())
            if key.events != events:
                self._selector.modify(key.fd, events, key.data)

    def _expire(self) -> None:
        late = ", ".join(str(self._children[rank]) for rank in self._rendezvous.missing())
        call, limit = self._rendezvous.call, self._rendezvous.timeout_s
        text = f"{call}: {late} did not arrive within {limit:g} s"
        waiting = [self._children[rank] for rank in self._rendezvous.waiting]
        self._rendezvous.clear()
        self._timeout = Frame(Kind.TIMEOUT, text.encode())
        self._reply(waiting, self._timeout)

    # Endings

    def _find_deserter(self, now: float) -> None:
        """Find a rank that the others wait for in vain."""
        missing = [self._children[rank] for rank in self._rendezvous.missing()]
        gone = [child for child in missing if child.gone_since(now - _GRACE_S)]
        if not gone:
            return
        child = next((c for c in self._exited if c in gone and c.status), gone[0])
        what = "left" if child.status is None else f"exited with status {child.status}"
        what += f" while others waited for it in {self._rendezvous.call}"
        self._fail(_Cause(child.rank, what, child.status or COULD_NOT_RUN))

    def _fail(self, cause: _Cause) -> None:
        if self._terminating or (self._children[0].status in VERDICTS and not cause.killed):
            return  # a victim of the end that is on its way
        first = self._cause
        if first is None or (cause.killed and not first.killed and cause.rank != first.rank):
            self._cause = cause
        self._end_by(signal.SIGTERM, after_s=_SETTLE_S)

    def _end_by(self, number: signal.Signals, after_s: float = 0.0) -> None:
        """Begin to end the ranks with signal `number`, unless that is to happen sooner anyway."""
        start = time.monotonic() + after_s
        steps: list[tuple[float, signal.Signals | None]] = [(start, number)]
        if number == signal.SIGTERM:
            steps.append((start + _TERM_S, signal.SIGKILL))
        steps.append((steps[-1][0] + _KILL_S, None))
        if not self._steps or start < self._steps[0][0]:
            self._steps = deque(steps)

    def _conclude(self) -> int:
        self._on_interrupt()  # it may have ended all ranks before this process could hear of it
        for child in self._children:
            child.read_output()
            child.output.finish()
            if child.status is None:
                say(f"pgctl: {child} has outlived SIGKILL")
        if self._interrupt is not None:
            return self._interrupt
        cause = self._cause or self._verdict()
        if cause is None:
            return 0
        if cause.rank == 0 and not cause.killed and _stdout_is_gone():
            return _OUTPUT_GONE
        if cause.rank != 0 or cause.status not in VERDICTS:
            self._report(cause)
        return cause.status

    def _verdict(self) -> _Cause | None:
        """The non-zero status that the ranks chose: rank 0's, or else the first."""
        chosen = [c for c in self._exited if c.status is not None and c.status in VERDICTS]
        for child in sorted(chosen, key=lambda c: c.rank != 0):
            return _Cause(child.rank, f"exited with status {child.status}", child.status or 0)
        return None

    def _report(self, cause: _Cause) -> None:
        child = self._children[cause.rank]
        say(f"pgctl: rank {child.rank} of {len(self._children)} (pid {child.pid}) {cause.what}")
        if not self._verbose:
            for line in child.output.tail:
                _say_for(child.rank, line)


def _say_for(rank: int, line: str) -> None:
    say(f"[rank {rank}] {line}")


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _stdout_is_gone() -> bool:
    """True when stdout is a pipe, socket or terminal that nobody holds at the other end."""
    poll = select.poll()
    poll.register(1, 0)
    return any(events & (select.POLLERR | select.POLLHUP) for _, events in poll.poll(0))
