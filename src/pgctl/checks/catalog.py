"""Every check there is, and how they are run."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

from pgctl.checks import active, gpus, host, pcie, ports
from pgctl.checks.check import Check
from pgctl.hardware.facts import Facts
from pgctl.profile import Expect, Severity
from pgctl.report.record import Finding

CHECKS = (
    Check("PG101", "traffic_path", "traffic may avoid RDMA", ports.traffic_path),
    Check("PG102", "gpu_memory", "registering GPU memory", gpus.gpu_memory),
    Check("PG103", "gpu_reach", "NICs reaching GPUs", gpus.gpu_reach, "gpu_reach"),
    Check("PG104", "memlock", "locked memory", host.memlock),
    Check("PG105", "mr_limits", "room for registrations", gpus.mr_limits),
    Check("PG106", "gid", "RoCE addresses", ports.gid),
    Check("PG107", "mtu", "MTU", ports.mtu),
    Check("PG108", "rails", "rails that can talk", ports.rails),
    Check("PG109", "affinity", "NICs near their GPUs", pcie.affinity),
    Check("PG110", "gpu_order", "order of GPUs", gpus.gpu_order),
    Check("PG111", "acs", "ACS and IOMMU", pcie.acs),
    Check("PG112", "pcie_link", "PCI Express links", pcie.pcie_link),
    Check("PG113", "ordering", "order of data and flag", pcie.ordering, "ordering"),
    Check("PG114", "roce_class", "RoCE traffic class", ports.roce_class),
    Check("PG115", "efa", "EFA software", host.efa),
    Check("PG116", "layers", "layers of RDMA", host.layers),
    Check("PG117", "gpu_rdma_knobs", "GPU-initiated RDMA", gpus.gpu_rdma_knobs),
    Check("PG118", "link_rate", "link rates", ports.link_rate),
    Check("PG119", "flaps", "link flaps", ports.flaps),
    Check("PG120", "numa", "CPUs near their NICs", pcie.numa),
    Check("PG121", "versions", "versions", host.versions),
    Check("PG122", "governor", "CPU governor", host.governor),
    Check("PG123", "hugepages", "huge pages", host.hugepages),
    Check("PG124", "gdrcopy", "GDRCopy", gpus.gdrcopy),
    Check("PG125", "ports", "port states", ports.states),
    Check("PG126", "inventory", "what the profile expects", host.inventory),
    Check("PG127", "registration", "registering memory", active.registration, "registration"),
    Check("PG128", "loopback", "writes through each NIC", active.loopback, "loopback"),
)


class UnknownCheckError(ValueError):
    """There is no check of this id or name."""


def find(text: str) -> Check:
    """By id or name. Raises UnknownCheckError."""
    wanted = text.strip().lower()
    for check in CHECKS:
        if wanted in (check.id.lower(), check.name):
            return check
    raise UnknownCheckError(f"{text.strip()!r} is no check: see --list")


def choose(
    severities: Mapping[str, Severity],
    only: Collection[Check] = (),
    without: Collection[Check] = (),
) -> list[Check]:
    """Those to run; one that a profile turns off runs only where it is asked for."""
    off = [check for check in CHECKS if severities.get(check.name) == "off" and check not in only]
    return [check for check in only or CHECKS if check not in without and check not in off]


def run_checks(
    facts: Facts,
    expect: Expect,
    severities: Mapping[str, Severity],
    checks: Collection[Check] = CHECKS,
) -> tuple[Finding, ...]:
    """severities: by name of a check, how bad it is when what it wants is not so."""
    findings = []
    for check in checks:
        severity = severities.get(check.name)
        finding = check(facts, expect)
        if severity in ("warn", "fail") and finding.verdict in ("warn", "fail"):
            finding = replace(finding, verdict=severity)
        findings.append(finding)
    return tuple(findings)
