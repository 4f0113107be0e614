"""Engines made of what probe prints."""

import pytest

import pgctl
from pgctl.hardware.facts import read_facts
from pgctl.hardware.selection import Selection, SelectionError


@pytest.fixture
def machine(monkeypatch, built):
    """Is read from now on; a function that gives the groups that probe prints of it."""

    def use(name):
        root = str(built[name].root)

        def read(selection):
            return read_facts(root, selection=selection)

        monkeypatch.setattr("pgctl.groups.read_facts", read)
        return lambda **asked: read(Selection(**asked)).groups

    return use


@pytest.mark.parametrize(
    "asked",
    [{}, {"nics": "^mlx5_3"}, {"gpus": "13:00.0,bb:00.0"}, {"nics_per_gpu": 2}],
    ids=lambda asked: " ".join(asked) or "all",
)
def test_nics_rails_and_cores_are_those_that_probe_prints(machine, asked):
    groups = machine("cx7")(**asked)
    made = pgctl.group_configs("verbs", "gid=3", progress="worker", **asked)
    assert [[nic.device for nic in each.nics] for each in made] == [[*g.nics] for g in groups]
    assert [[nic.rail - 1 for nic in each.nics] for each in made] == [[*g.rails] for g in groups]
    assert [each.worker_cpu for each in made] == [group.cpus[0] for group in groups]
    assert {each.progress for each in made} == {"worker"}
    nics = [nic for each in made for nic in each.nics]
    assert {(nic.transport, nic.options, nic.link_mbit_s) for nic in nics} == {
        ("verbs", "gid=3", 400_000)
    }


def test_a_group_without_cores_has_a_worker_that_is_not_pinned(monkeypatch, copy):
    host = copy("cx7")
    host.status("0-1")
    facts = read_facts(str(host.root))
    monkeypatch.setattr("pgctl.groups.read_facts", lambda **_: facts)
    assert [each.worker_cpu for each in pgctl.group_configs("verbs")] == [0, 1, *[-1] * 6]


def test_a_machine_without_nics_makes_an_engine_of_shared_memory(machine):
    machine("laptop")
    with pgctl.TransferEngine(pgctl.group_configs("verbs", progress="inline")) as engine:
        assert engine.limits().transport == "shm"


def test_a_nic_that_is_not_there(machine):
    machine("cx7")
    with pytest.raises(SelectionError, match="'mlx9' is no NIC of this machine: mlx5_0, "):
        pgctl.group_configs("verbs", nics="mlx9")
