"""Groups that hold whatever the tree, and a probe that survives whatever the files say."""

import io
import json
from collections import Counter
from importlib.resources import files
from random import Random
from types import SimpleNamespace

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgctl.hardware import root as files_of
from pgctl.hardware.cpu import Cpus, Node
from pgctl.hardware.facts import NothingThereError
from pgctl.hardware.groups import MOST_NICS, Spot, affinity, make_groups, nearness, place
from pgctl.hardware.pci import common
from pgctl.hardware.root import Fact, unknown
from pgctl.probe import Request, probe
from pgctl.report.console import Terminal
from pgctl.report.dot import dot
from pgctl.report.json_writer import dumps

VALIDATOR = jsonschema.Draft202012Validator(
    json.loads((files("pgctl.report") / "schema.json").read_text(encoding="utf-8"))
)
CLOSENESS = ("PIX", "PXB", "PHB", "NODE", "SYS")


def cpus(nodes, each):
    online = tuple(range(nodes * each))
    return Cpus(
        model=unknown("", ""),
        virtual=unknown("", ""),
        online=Fact(online, ""),
        allowed=Fact(online, ""),
        siblings={},
        nodes=tuple(
            Node(n, Fact(tuple(range(n * each, (n + 1) * each)), "")) for n in range(nodes)
        ),
        governors={},
    )


@st.composite
def machines(draw):
    """A tree of host bridges and switches, with GPUs and NICs anywhere in it."""
    paths, spots = {}, {"gpu": [], "nic": []}
    for kind, most in (("gpu", 8), ("nic", 40)):
        for i in range(draw(st.integers(0, most))):
            node = draw(st.integers(0, 1))
            bridge = f"pci{node}{draw(st.integers(0, 1))}"
            depth = draw(st.integers(0, 3))
            above = [bridge]
            for _ in range(depth):
                above.append(f"{above[-1]}.{draw(st.integers(0, 1))}")
            name = f"{kind}{i}"
            paths[name] = (*above, name) if draw(st.booleans()) or depth else ()
            spots[kind].append(Spot(name, name, draw(st.sampled_from([node, node, None]))))
    tree = SimpleNamespace(path=lambda address: paths.get(address, ()), per_switch=2)
    return tree, spots["gpu"], spots["nic"]


@given(machines(), st.none() | st.integers(1, MOST_NICS), st.integers(1, 16))
def test_groups(machine, per_gpu, each):
    tree, gpus, nics = machine
    known = cpus(2, each)
    groups = make_groups(tree, gpus, nics, known, per_gpu)
    names = {nic.name for nic in nics}
    used = Counter(nic for group in groups for nic in group.nics)
    assert set(used) <= names
    assert all(len(group.nics) == len(set(group.nics)) <= MOST_NICS for group in groups)
    taken = [cpu for group in groups for cpu in group.cpus]
    assert len(taken) == len(set(taken))
    for group in groups:
        assert group.shared == tuple(nic for nic in group.nics if used[nic] > 1)
        assert group.numa is None or {known.node_of(cpu) for cpu in group.cpus} <= {group.numa}
    rails = {
        nic: rail for group in groups for nic, rail in zip(group.nics, group.rails, strict=True)
    }
    assert sorted(rails.values()) == list(range(len(used)))
    if not gpus:
        assert set(used) == names
        return
    assert [group.gpu for group in groups] == [gpu.name for gpu in gpus]
    if per_gpu is not None:
        assert {len(group.nics) for group in groups} == {min(per_gpu, len(nics))}
        return
    assert all(group.nics for group in groups) or not nics
    where = {spot.name: place(tree, spot) for spot in (*gpus, *nics)}
    idle = names - set(used)
    for group in groups:
        mine = where[group.gpu]
        worst = min((nearness(mine, where[nic]) for nic in group.nics), default=0)
        closer = [nic for nic in idle if nearness(mine, where[nic]) > worst]
        assert not closer or len(group.nics) == MOST_NICS


@given(machines())
def test_equals_get_equal_shares(machine):
    """GPUs of one place, where all NICs are in that place too."""
    _, gpus, nics = machine
    flat = SimpleNamespace(path=lambda address: ("pci0", "switch", address), per_switch=2)
    gpus = [Spot(gpu.name, gpu.pci, 0) for gpu in gpus]
    nics = [Spot(nic.name, nic.pci, 0) for nic in nics]
    groups = make_groups(flat, gpus, nics, cpus(1, 64), None)
    if gpus and nics:
        counts = {len(group.nics) for group in groups}
        assert max(counts) - min(counts) <= 1
        used = Counter(nic for group in groups for nic in group.nics)
        assert max(used.values()) - min(used.values()) <= 1
        assert len(used) == min(len(nics), MOST_NICS * len(gpus))


@given(machines())
def test_closeness_follows_the_tree(machine):
    tree, gpus, nics = machine
    for gpu in gpus:
        for one in nics:
            how = affinity(tree, gpu, one)
            assert affinity(tree, one, gpu) == how
            shared = common(tree.path(gpu.pci), tree.path(one.pci))
            assert (CLOSENESS.index(how) < CLOSENESS.index("NODE")) == (shared > 0)


# ---- Files that say anything

TEXTS = (
    *(b"", b"0", b"-1", b"99999999999999999999999", b"0x", b"4: ACTIVE", b"1: ", b"0-", b"0-70000"),
    *(b"Unknown", b"\x1b[2J", b"\xff\xfe\x00", b"a\0b=c\0", b"[", b"::", b"fe80::", b"nan Gb/sec"),
    *(b"inf GT/s", b"x" * 5000, b"9" * 5000, "Gr\u00f6\u00dfe\u2028".encode()),
)


class Liar(files_of.Root):
    """A root in which some files are gone, cut short or say something else."""

    random = Random(0)
    rate = 0.0

    def lies(self):
        return self.random.random() < self.rate

    def raw(self, path):
        fact = super().raw(path)
        if not self.lies():
            return fact
        kind = self.random.randrange(3)
        if kind == 0:
            return unknown(path, "permission denied, EACCES")
        if kind == 1 and fact.value:
            return Fact(fact.value[: self.random.randrange(len(fact.value))], path)
        return Fact(self.random.choice(TEXTS), path)

    def names(self, path):
        fact = super().names(path)
        if not self.lies():
            return fact
        if self.random.random() < 0.5:
            return unknown(path, "not there")
        return Fact((*(fact.value or ())[::2], "0", "zzz", "node9", "0000:zz:00.0"), path)

    def link(self, path):
        fact = super().link(path)
        return Fact("../../what/0000:13:00.0/ever", path) if self.lies() else fact

    def exists(self, path):
        return super().exists(path) != self.lies()


@pytest.mark.parametrize("name", ["cx7", "shared", "laptop"])
@pytest.mark.parametrize("seed", range(20))
def test_whatever_the_files_say(built, monkeypatch, name, seed):
    monkeypatch.setattr(Liar, "random", Random(seed))
    monkeypatch.setattr(Liar, "rate", (0.002, 0.02, 0.3, 1.0)[seed % 4])
    monkeypatch.setattr("pgctl.hardware.facts.Root", Liar)
    try:
        record = probe(Request(sysroot=str(built[name].root)), ("pgctl",))
    except NothingThereError:
        return
    wrong = VALIDATOR.iter_errors(json.loads(dumps(record)))
    assert [f"{error.json_path}: {error.message[:200]}" for error in wrong] == []
    for width in (40, 200):
        monkeypatch.setenv("COLUMNS", str(width))
        out = io.StringIO()
        Terminal(stdout=out).probe(record, verbose=True)
        assert "\x1b" not in out.getvalue()
    assert dot(record).startswith("graph pci {")
