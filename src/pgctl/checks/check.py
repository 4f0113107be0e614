"""What a check is: a pure function of facts and expectations that comes to an opinion."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from importlib.resources import files

from pgctl.hardware.facts import Facts
from pgctl.hardware.root import Fact
from pgctl.hardware.trials import What
from pgctl.profile import Expect
from pgctl.report.record import Finding, Outcome

NEEDS_TRAFFIC = "shows only while bytes move"
NEEDS_TRIAL = "shows only with --active"
NEEDS_TIME = "shows only as growth over time"

_ELSEWHERE = "the topology file is of another machine"
_SHOWN = 3


@dataclass(frozen=True, slots=True)
class Opinion:
    verdict: Outcome
    evidence: str
    """What was seen, and where; of a skip, why nothing was."""
    fix: str = ""


@dataclass(frozen=True, slots=True)
class Check:
    id: str
    name: str
    """As profiles and flags call it."""
    title: str
    judge: Callable[[Facts, Expect], Opinion]
    trial: What | None = None
    """What has to be tried before it can be judged."""

    def __call__(self, facts: Facts, expect: Expect) -> Finding:
        opinion = self.judge(facts, expect)
        return Finding(self.id, opinion.verdict, self.title, opinion.evidence, opinion.fix)

    def page(self) -> str:
        """What it is about, in Markdown."""
        return (files("pgctl.checks") / "pages" / f"{self.id}.md").read_text(encoding="utf-8")


def good(evidence: str) -> Opinion:
    return Opinion("pass", evidence)


def warn(evidence: str, fix: str) -> Opinion:
    return Opinion("warn", evidence, fix)


def fail(evidence: str, fix: str) -> Opinion:
    return Opinion("fail", evidence, fix)


def skip(why: str) -> Opinion:
    return Opinion("skip", why)


def several(items: Collection[object]) -> str:
    """The first few, and how many more there are."""
    texts = [str(item) for item in items]
    more = len(texts) - _SHOWN
    return "; ".join(texts[:_SHOWN]) + (f"; and {more} more" if more > 0 else "")


def no_gpu(facts: Facts) -> Opinion | None:
    if facts.gpus:
        return None
    return skip("no GPU") if facts.pci_listing.known else unread(facts, facts.pci_listing)


def no_pair(facts: Facts) -> Opinion | None:
    """Nothing to say without a GPU and a NIC for it."""
    return no_gpu(facts) or (None if facts.used_nics else skip("no NIC that a GPU could use"))


def no_rdma(facts: Facts) -> Opinion | None:
    """Nothing to say without an RDMA device, or with none of them asked for."""
    if facts.ports:
        return None
    if facts.rdma:
        return skip("no port of an RDMA device is meant")
    if facts.rdma_listing.why in ("", "not there"):
        return skip("no RDMA device")
    return unread(facts, facts.rdma_listing)


def tried(facts: Facts, what: What, fix: str) -> Opinion:
    """What came of a trial, on all NICs. One that could not be tried is not fine."""
    if facts.trials is None:
        return no_rdma(facts) or skip(NEEDS_TRIAL)
    trials = [trial for trial in facts.trials.done if trial.what == what]
    bad = [f"{trial.whom}: {trial.told}" for trial in trials if trial.good is False]
    if bad:
        return fail(several(bad), fix)
    if not facts.trials.done:
        return skip("no NIC is meant")
    if not trials:
        return skip("not tried, as what comes before it failed on every NIC")
    if untried := [f"{trial.whom}: {trial.told}" for trial in trials if trial.good is None]:
        return skip(f"could not be tried: {several(untried)}")
    return good(several([f"{trial.whom}: {trial.told}" for trial in trials]))


def environment(facts: Facts) -> Mapping[str, str]:
    """As far as it is known: that a variable is not in it proves nothing."""
    return facts.system.environment.value or {}


def cannot(fact: Fact[object]) -> str:
    """What failed, and how."""
    return f"{fact.source}: {fact.why}"


def unread(facts: Facts, *missing: Fact[object] | str) -> Opinion:
    """A skip for want of facts."""
    return skip(_ELSEWHERE if facts.foreign else several(missing))
