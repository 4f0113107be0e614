"""The record, and its way into JSON."""

import json
import os
import stat
from importlib.resources import files
from pathlib import Path

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgctl.report import json_writer
from pgctl.report.record import (
    SCHEMA,
    DomainGroup,
    Fabric,
    Finding,
    Gate,
    Nic,
    Port,
    Record,
    Result,
    Run,
    Samples,
    to_plain,
)

VALIDATOR = jsonschema.Draft202012Validator(
    json.loads((files("pgctl.report") / "schema.json").read_text(encoding="utf-8")),
    format_checker=jsonschema.FormatChecker(),
)

text = st.text(max_size=20)
sizes = st.integers(0, 1 << 40)
numbers = st.floats(0, 1e12)
summaries = st.dictionaries(
    st.sampled_from(["p50", "p90", "p99", "p99.9", "min", "max", "mean"]), numbers
)
runs = st.builds(
    Run,
    argv=st.lists(text).map(tuple),
    started=st.datetimes().map(lambda moment: f"{moment.isoformat(timespec='seconds')}+00:00"),
    host=text,
    ranks=st.integers(1, 4096),
    versions=st.dictionaries(text, text),
    seed=st.integers(0, 2**32),
    launcher=st.sampled_from(["local", "mpi"]),
    cpus=st.lists(st.none() | st.integers(0, 512)).map(tuple),
    parameters=st.dictionaries(text, st.none() | st.booleans() | sizes | text),
    elapsed_s=numbers,
)
nics = st.builds(
    Nic,
    name=text,
    pci=st.none() | text,
    link_gbit_s=numbers,
    counters_delta=st.dictionaries(text, sizes),
)
ports = st.builds(
    Port,
    host=text,
    name=text,
    ranks=st.lists(st.integers(0, 9)).map(tuple),
    payload_out=sizes,
    data_out=st.none() | sizes,
    data_in=st.none() | sizes,
    counters_delta=st.dictionaries(text, sizes),
)
fabrics = st.builds(
    Fabric,
    transport=text,
    why=text,
    nics=st.lists(nics, max_size=4).map(tuple),
    path=text,
    nics_by_rank=st.lists(st.lists(text, min_size=1).map(tuple)).map(tuple),
    groups_by_rank=st.lists(st.text(min_size=1)).map(tuple),
    impair=text,
    options=text,
    ports=st.lists(ports, max_size=3).map(tuple),
    progress=st.lists(st.sampled_from(["inline", "worker"])).map(tuple),
)
series = st.builds(
    Samples,
    unit=st.just("ns"),
    total=sizes,
    values=st.lists(sizes, max_size=20).map(tuple),
    per=st.integers(1, 1 << 20),
)
results = st.builds(
    Result,
    test=text,
    size=sizes,
    iters=sizes,
    metrics=st.dictionaries(text, summaries),
    pair=st.none() | st.tuples(st.integers(0, 9), st.integers(0, 9)),
    verified=st.none() | st.booleans(),
    bytes_per_nic=st.dictionaries(text, sizes),
    payload=st.fixed_dictionaries({}, optional={"total": sizes, "off_node": sizes}),
    samples=st.dictionaries(text, series, max_size=3),
    pages=st.none() | sizes,
)
verdicts = st.sampled_from(["pass", "fail"])
records = st.builds(
    Record,
    command=text,
    verdict=st.sampled_from(["pass", "fail", "error", "skip"]),
    run=runs,
    fabric=fabrics,
    results=st.lists(results, max_size=3).map(tuple),
    limits=st.dictionaries(text, numbers | st.dictionaries(sizes.map(str), numbers)),
    findings=st.lists(
        st.builds(Finding, id=text, verdict=verdicts, title=text, evidence=text, fix=text)
    ).map(tuple),
    gates=st.lists(
        st.builds(
            Gate,
            test=text,
            size=sizes,
            metric=text,
            value=numbers,
            verdict=verdicts,
            min=st.none() | numbers,
            max=st.none() | numbers,
        )
    ).map(tuple),
    error=st.none() | text,
    domain_groups=st.lists(
        st.builds(
            DomainGroup,
            gpu=st.none() | st.just("0000:18:00.0"),
            numa=st.none() | st.integers(0, 9),
            nics=st.lists(text, max_size=4).map(tuple),
            cpus=st.lists(st.integers(0, 512)).map(tuple),
            rails=st.lists(st.integers(0, 64)).map(tuple),
            closeness=st.lists(st.sampled_from(["PIX", "PXB", "PHB", "NODE", "SYS"])).map(tuple),
            shared=st.lists(text).map(tuple),
        ),
        max_size=3,
    ).map(tuple),
)

RECORD = Record("bench write", "pass", Run((), "", "host", 2, {}, 0), Fabric("shm", "", ()))


@given(records)
def test_every_record_is_valid_and_reads_back(record: Record) -> None:
    document = json.loads(json_writer.dumps(record))
    VALIDATOR.validate(document)
    assert document == to_plain(record)
    assert next(iter(document.items())) == ("schema", SCHEMA)


def test_the_schema_is_one() -> None:
    VALIDATOR.check_schema(VALIDATOR.schema)


@pytest.mark.parametrize(
    ("where", "value"),
    [
        (("verdict",), "good"),
        (("run", "ranks"), 0),
        (("results",), [{"size": 8}]),
        (("fabric", "nics_by_rank"), 4),
        (("fabric", "impair"), None),
        (("fabric", "nics_by_rank"), [["shm0"], []]),
        (("fabric", "groups_by_rank"), ["0", ""]),
        (("fabric", "ports"), [{"name": "rxe0"}]),
        (("fabric", "progress"), ["inline", "idle"]),
        (("schema",), "pgctl.result/2"),
        (("extra",), 1),
        (("hardware",), {}),
        (("domain_groups",), [{"gpu": "0", "numa": 0, "nics": [], "cpus": []}]),
        (("limits",), {"memcpy_gbyte_s": "fast"}),
    ],
)
def test_the_schema_refuses(where: tuple[str, ...], value: object) -> None:
    document = to_plain(RECORD)
    VALIDATOR.validate(document)
    place = document
    for key in where[:-1]:
        place = place[key]
    place[where[-1]] = value
    assert not VALIDATOR.is_valid(document)


def test_a_number_that_json_cannot_hold_is_an_error() -> None:
    record = Record(**{**vars_of(RECORD), "limits": {"x": float("nan")}})
    with pytest.raises(ValueError, match="not JSON compliant"):
        json_writer.dumps(record)


def vars_of(record: Record) -> dict[str, object]:
    return {name: getattr(record, name) for name in record.__slots__ if name != "schema"}


def test_a_file_appears_whole_with_the_usual_mode(tmp_path: Path) -> None:
    target = tmp_path / "out.json"
    json_writer.check_target(str(target))
    assert list(tmp_path.iterdir()) == []
    json_writer.write(RECORD, str(target))
    assert [path.name for path in tmp_path.iterdir()] == ["out.json"]
    assert json.loads(target.read_text()) == to_plain(RECORD)
    umask = os.umask(0)
    os.umask(umask)
    assert stat.S_IMODE(target.stat().st_mode) == 0o666 & ~umask


def test_an_old_file_stays_until_the_new_one_is_complete(tmp_path: Path) -> None:
    target = tmp_path / "out.json"
    target.write_text("old")
    json_writer.check_target(str(target))
    broken = Record(**{**vars_of(RECORD), "limits": {"x": float("nan")}})
    with pytest.raises(ValueError, match="JSON"):
        json_writer.write(broken, str(target))
    assert target.read_text() == "old"
    json_writer.write(RECORD, str(target))
    assert json.loads(target.read_text())["schema"] == SCHEMA
    assert list(tmp_path.iterdir()) == [target]


def test_a_link_is_written_through(tmp_path: Path) -> None:
    link, target = tmp_path / "link.json", tmp_path / "target.json"
    link.symlink_to(target)
    json_writer.write(RECORD, str(link))
    assert link.is_symlink()
    assert json.loads(target.read_text())["schema"] == SCHEMA


def test_a_device_is_written_in_place() -> None:
    json_writer.check_target(os.devnull)
    json_writer.write(RECORD, os.devnull)
    assert stat.S_ISCHR(Path(os.devnull).stat().st_mode)


def test_a_dash_is_stdout(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    json_writer.check_target("-")
    json_writer.write(RECORD, "-")
    assert json.loads(capsys.readouterr().out) == to_plain(RECORD)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["missing/out.json", ".", "file/out.json"])
def test_what_cannot_be_written_is_found_before(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r".+"):
        json_writer.check_target(str(tmp_path / name))
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
