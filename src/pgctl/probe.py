"""A probe as a whole: from what was asked to the record of it."""

from __future__ import annotations

import platform
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from importlib.metadata import version

from pgctl.checks.catalog import CHECKS, choose, run_checks
from pgctl.checks.check import Check
from pgctl.hardware.facts import Facts, read_facts
from pgctl.hardware.plain import to_plain
from pgctl.hardware.selection import Selection
from pgctl.hardware.trials import Trials
from pgctl.profile import Profile, load_profile
from pgctl.report.record import DomainGroup, Fabric, Finding, Nic, Record, Run, Verdict


@dataclass(frozen=True, slots=True)
class Request:
    """What the user asked for."""

    sysroot: str = "/"
    topology: str | None = None
    selection: Selection = field(default_factory=Selection)
    profile: str | None = None
    only: tuple[Check, ...] = ()
    without: tuple[Check, ...] = ()
    active: bool = False
    """Whether NICs are tried as well."""
    transport: str = "auto"
    """That they are tried with."""


class NotHereError(ValueError):
    """What is read is not this machine, so that nothing can be tried on it."""


def probe(request: Request, argv: Sequence[str]) -> Record:
    """Raises NotHereError, ProfileError, and what read_facts raises."""
    started, clock = datetime.now(UTC), time.monotonic()
    profile = Profile()
    if request.profile is not None:
        profile = load_profile(request.profile, [check.name for check in CHECKS])
    facts = read_facts(request.sysroot, request.topology, request.selection, drivers=True)
    checks = choose(profile.severities, request.only, request.without)
    if request.active:
        facts = replace(facts, trials=_trials(facts, request.transport, checks))
    findings = run_checks(facts, profile.expect, profile.severities, checks)
    return Record(
        command="probe",
        verdict=_verdict(findings),
        run=Run(
            argv=tuple(argv),
            started=started.isoformat(timespec="seconds"),
            elapsed_s=round(time.monotonic() - clock, 3),
            host=facts.system.host.value or "",
            ranks=1,
            versions={"pgctl": version("pgctl"), "python": platform.python_version()},
            seed=0,
            parameters={
                "sysroot": request.sysroot,
                "topology": request.topology,
                "profile": request.profile,
                "nics": request.selection.nics,
                "gpus": request.selection.gpus,
                "nics_per_gpu": request.selection.nics_per_gpu,
                "active": request.active,
            },
        ),
        fabric=_fabric(facts),
        findings=findings,
        domain_groups=_groups(facts),
        hardware=to_plain(facts),
    )


def _trials(facts: Facts, transport: str, checks: Sequence[Check]) -> Trials:
    from pgctl.active.run import try_nics

    if not facts.real:
        raise NotHereError("only NICs of this machine can be tried, and what is read is another's")
    return try_nics(facts, transport, {check.trial for check in checks if check.trial})


def _fabric(facts: Facts) -> Fabric:
    if facts.trials is None:
        return Fabric("none", "probe moves no bytes", _nics(facts))
    return Fabric(facts.trials.transport, facts.trials.why, _nics(facts))


def _verdict(findings: Sequence[Finding]) -> Verdict:
    verdicts = {finding.verdict for finding in findings}
    if "fail" in verdicts:
        return "fail"
    return "skip" if verdicts <= {"skip"} else "pass"


def _nics(facts: Facts) -> tuple[Nic, ...]:
    return tuple(Nic(nic.name, nic.pci, nic.gbit_s.value or 0.0) for nic in facts.nics)


def _groups(facts: Facts) -> tuple[DomainGroup, ...]:
    return tuple(
        DomainGroup(
            gpu=group.gpu,
            numa=group.numa,
            nics=group.nics,
            cpus=group.cpus,
            rails=group.rails,
            closeness=group.closeness,
            shared=group.shared,
        )
        for group in facts.groups
    )
