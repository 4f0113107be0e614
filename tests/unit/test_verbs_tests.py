"""tools/verbs_tests.py believes only in tests that it sees to have passed."""

import importlib
from pathlib import Path

import pytest

TOOLS = Path(__file__).parents[2] / "tools"


@pytest.fixture
def tool(monkeypatch, tmp_path):
    """As on a machine without a device and a lab."""
    monkeypatch.syspath_prepend(TOOLS)
    module = importlib.import_module("verbs_tests")
    monkeypatch.setattr(module.rdma_lab, "has_device", lambda: False)
    monkeypatch.setattr(module.rdma_lab, "BESIDE", tmp_path / "beside")
    monkeypatch.setattr(module, "REPORTS", tmp_path / "reports")
    monkeypatch.setattr(module, "PACKAGES", ["true"])
    for name in ("PGCTL_RDMA_LAB", "PGCTL_REQUIRE"):
        monkeypatch.delenv(name, raising=False)
    return module


@pytest.fixture
def lab(monkeypatch, tmp_path):
    """Makes a lab that does this with a report's path in $1."""

    def make(script):
        run = tmp_path / "lab/run.sh"
        run.parent.mkdir()
        find = "for word in ${!#}; do case $word in --junit-xml=*) set -- ${word#*=};; esac; done"
        run.write_text(f"#!/bin/bash\n{find}\n{script}\n")
        run.chmod(0o755)
        monkeypatch.setenv("PGCTL_RDMA_LAB", str(run.parent))

    return make


def status(tool, *, only_check=False):
    with pytest.raises(SystemExit) as ended:
        tool.main(only_check)
    return ended.value.code


def report(**counts):
    words = " ".join(f'{name}="{n}"' for name, n in counts.items())
    return f"echo '<testsuites><testsuite {words}/></testsuites>' > $1"


def test_without_a_place_they_are_skipped_or_missing(tool, monkeypatch, capsys):
    assert status(tool) == status(tool, only_check=True) == 77
    said = capsys.readouterr().err.splitlines()[0]
    assert said.startswith("verbs tests: skipped: no RDMA device in /dev/infiniband that can be")
    monkeypatch.setenv("PGCTL_REQUIRE", "shm,verbs")
    assert status(tool) == 1


def test_a_lab_that_is_named_must_be_there(tool, monkeypatch, tmp_path):
    monkeypatch.setenv("PGCTL_RDMA_LAB", str(tmp_path))
    assert status(tool) == f"PGCTL_RDMA_LAB={tmp_path} has no run.sh"


def test_a_lab_beside_the_checkout_is_used(tool):
    tool.rdma_lab.BESIDE.mkdir()
    (tool.rdma_lab.BESIDE / "run.sh").touch()
    assert tool.find().lab == tool.rdma_lab.BESIDE


@pytest.mark.parametrize(
    "script",
    [
        "true",
        "echo > $1",
        report(tests=0),
        report(tests=9, skipped=9),
        report(tests=9, failures=1),
        report(tests=9, errors=1),
    ],
)
def test_a_lab_in_which_nothing_has_passed_fails(tool, lab, script):
    lab(script)
    assert "no test of four has passed" in status(tool)
    assert "no test of four has passed" in status(tool, only_check=True)


def test_a_lab_that_fails_fails(tool, lab):
    lab(f"{report(tests=9)}; exit 3")
    assert status(tool) == "verbs tests: four failed (3)"


def test_what_has_passed_is_counted_until_it_runs_again(tool, lab, capsys):
    lab(report(tests=9, skipped=2))
    passed = 7 * len(tool.IN_A_LAB)
    for only_check in (False, True):
        tool.main(only_check)
        last = capsys.readouterr().out.splitlines()[-1]
        assert last.startswith(f"verbs tests: {passed} passed, on the")
    lab_file = Path(tool.find().lab) / "run.sh"
    lab_file.write_text("#!/bin/bash\n")
    assert "no test of four has passed" in status(tool)
