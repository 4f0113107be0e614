"""Which transport carries the benchmark, and why that one."""

from __future__ import annotations

from collections.abc import Sequence

from pgctl.engine.config import transports


class NoTransportError(RuntimeError):
    """None of those that may be used runs between these hosts."""


def choose(asked: str, hosts: Sequence[str]) -> tuple[str, str]:
    """The name of a transport, and why it is that one. Raises NoTransportError."""
    refusals = []
    for transport in transports():
        if asked not in ("auto", transport.name):
            continue
        refusal = transport.reason or _too_far(transport.name, hosts)
        if not refusal:
            reason = "all ranks are on this host" if asked == "auto" else f"--transport {asked}"
            return transport.name, reason
        refusals.append(f"{transport.name}: {refusal}")
    raise NoTransportError("; ".join(refusals) or f"this build has no transport {asked!r}")


def _too_far(name: str, hosts: Sequence[str]) -> str:
    if name == "shm" and len(set(hosts)) > 1:
        return f"it does not leave a host, and the ranks are on {', '.join(sorted(set(hosts)))}"
    return ""
