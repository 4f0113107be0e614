"""What tests can ask for, and the summary of the transports that the C library declares."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from required import REQUIRED, do_without

from pgctl.engine import TransferEngine, transports
from pgctl.engine.config import transport_names

FAKE_EFA = Path(__file__).parent.parent / "build/test-c/native/libfabric_fake_efa.so"
PROVIDERS = {
    "tcp": "provider=tcp",
    "shm": "provider=shm",
    "verbs": "provider=verbs",
    "fake_efa": f"library={FAKE_EFA}",
}
"""Options of ofi, each a way of its own."""
FRAGILE = {"ofi:shm": "who is stopped in libfabric's shm may hold a lock that its peers spin on"}
"""Ways in which tests that stop or kill a process (marked: hurts) do more than they mean to."""
DEVICES = {"verbs", "ofi:verbs"}
"""Ways that need an RDMA device."""


@dataclass(frozen=True)
class Way:
    """How bytes go: a transport of this build, or one with which something goes wrong."""

    name: str
    transport: str
    impair: str = ""
    options: str = ""

    @property
    def marks(self):
        return [pytest.mark.rdma] if self.name.partition("+")[0] in DEVICES else []


def ways(impairments, providers):
    """Every transport that the C library declares, and each of them with each impairment."""
    for transport in transport_names():
        if transport == "ofi":
            yield from (Way(f"ofi:{name}", "ofi", "", text) for name, text in providers.items())
            continue
        yield Way(transport, transport)
        for name, impair in impairments.items():
            yield Way(f"{transport}+{name}", transport, impair)


def pytest_generate_tests(metafunc):
    if "transport" in metafunc.fixturenames:
        impairments = getattr(metafunc.module, "IMPAIRMENTS", {})
        known = list(ways(impairments, getattr(metafunc.module, "PROVIDERS", PROVIDERS)))
        names = ["hosts", *(way.name for way in ways(impairments, PROVIDERS))]
        if unknown := [name for name in REQUIRED if name not in names]:
            raise pytest.UsageError(f"PGCTL_REQUIRE: no transport is named {', '.join(unknown)}")
        params = [pytest.param(way, id=way.name, marks=way.marks) for way in known]
        metafunc.parametrize("transport", params, indirect=True)


@pytest.fixture
def transport(request, monkeypatch):
    """A transport of this build that this machine can run, and what it promises in this way."""
    way = request.param
    if way.name in FRAGILE and request.node.get_closest_marker("hurts"):
        pytest.skip(FRAGILE[way.name])
    monkeypatch.setenv("PGCTL_OFI", way.options)  # read by every engine, here and elsewhere
    transport = next(each for each in transports() if each.name == way.transport)
    if transport.caps is None:
        do_without(way.name, transport.reason)
    monkeypatch.setenv("PGCTL_IMPAIR", way.impair)  # likewise
    with TransferEngine(transport=transport.name) as engine:
        return replace(transport, caps=engine.limits().caps)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item):
    report = (yield).get_result()
    params = item.callspec.params if hasattr(item, "callspec") else {}
    report.transport = params["transport"].name if "transport" in params else None


def pytest_terminal_summary(terminalreporter):
    for report in terminalreporter.getreports("passed"):
        for name, value in report.user_properties if report.when == "call" else ():
            terminalreporter.line(f"{name}: {value}")
    counts = {}
    for outcome in ("passed", "skipped", "failed", "error"):
        for report in terminalreporter.getreports(outcome):
            if name := getattr(report, "transport", None):
                counts.setdefault(name, Counter())[outcome] += 1
    if counts:
        terminalreporter.section("transports")
    for name, count in counts.items():
        failed = count["failed"] + count["error"]
        terminalreporter.line(
            f"{name}: {count['passed']} passed, {count['skipped']} skipped, {failed} failed"
        )


@pytest.fixture(scope="session")
def built(tmp_path_factory):
    """The machines of support/machines.py, each once: to read."""
    from machines import MACHINES

    top = tmp_path_factory.mktemp("machines")
    return {name: build(top / name) for name, build in MACHINES.items()}


@pytest.fixture
def copy(built, tmp_path):
    """Makes a copy of one of them: to break."""
    from machines import Machine

    def make(name):
        shutil.copytree(built[name].root, tmp_path / name, symlinks=True, copy_function=os.link)
        machine = Machine(tmp_path / name)
        machine.devices = built[name].devices
        return machine

    return make


@pytest.fixture(scope="session")
def pool():
    from parties import Pool

    it = Pool()
    yield it
    it.close()


@pytest.fixture
def world(pool):
    """Makes parties, and closes them; see support/parties.py."""
    from parties import World

    it = World(pool)
    yield it
    it.close()
