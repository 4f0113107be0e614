"""pgctl itself, read from the record that `pgctl bench ... --json -` prints."""

import json
import shutil
import sys
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

from peers.common import Cores, NotMeasuredError, Row, Sample, run

ARGUMENTS = {
    ("write", "counted by the receiver"): ["--sizes", "8,4K,64K,1M,32M"],
    ("write", "not counted, as the puts below"): ["--sizes", "4K,64K,1M,32M", "--no-imm"],
    ("paged", "counted by the receiver"): ["--sizes", "4K,64K,1M"],
    ("barrier", "shm"): [],
}


def rows(cores: Cores) -> list[Row]:
    beside = Path(sys.executable).with_name("pgctl")
    pgctl = str(beside) if beside.exists() else shutil.which("pgctl")
    if pgctl is None:
        return [
            Row("pgctl", setting, table=bench, reason="pgctl is not installed (make venv)")
            for bench, setting in ARGUMENTS
        ]
    return [
        Row(name(), setting, partial(_measure, pgctl, bench, options, cores), table=bench)
        for (bench, setting), options in ARGUMENTS.items()
    ]


def _measure(pgctl: str, bench: str, options: list[str], cores: Cores) -> Sample:
    pinned = ["taskset", "-c", ",".join(map(str, cores))]
    text = run([*pinned, pgctl, "bench", bench, *options, "--transport", "shm", "--json", "-"])
    try:
        sample = from_record(json.loads(text), bench)
    except (ValueError, KeyError, TypeError) as error:
        raise NotMeasuredError(f"pgctl's record is not understood: {error!r}") from error
    if not sample:
        raise NotMeasuredError("pgctl's record holds no result")
    return sample


def means(record: dict[str, Any], counted: bool) -> Sample:
    """As other programs have them; of latencies, where writes are counted, medians."""
    sample: Sample = {}
    for result in record["results"]:
        size, metrics = result["size"], result["metrics"]
        if size == 8:
            sample["rate_mop_s.8"] = metrics["rate_mop_s"]["mean"]
            if counted:
                sample["lat_us.8"] = metrics["lat_us"]["p50"]
        else:
            sample[f"bw_gbyte_s.{size}"] = metrics["bw_gbyte_s"]["mean"]
    return sample


def write_record(words: list[str], cores: Cores) -> dict[str, Any]:
    """Of bench write with these words."""
    pinned = ["taskset", "-c", ",".join(map(str, cores))]
    pgctl = str(Path(sys.executable).with_name("pgctl"))
    text = run([*pinned, pgctl, "bench", "write", *words, "-N", "1", "--no-check", "--json", "-"])
    record: dict[str, Any] = json.loads(text)
    return record


def name() -> str:
    return f"**pgctl {metadata.version('pgctl')}**"


def from_record(record: dict[str, Any], bench: str) -> Sample:
    sample: Sample = {}
    for result in record["results"]:
        if result["test"] != f"bench.{bench}":
            continue
        size, metrics = result.get("size", 0), result["metrics"]
        wanted = {
            "write": {"bw_gbyte_s": "bw_gbyte_s"},
            "paged": {"bw_gbyte_s": "paged_gbyte_s"},
            "barrier": {"lat_us": "barrier_us"},
        }[bench]
        if bench == "write" and size == 8:
            wanted = {"lat_us": "lat_us", "rate_mop_s": "rate_mop_s"}
        for metric, name in wanted.items():
            if metric in metrics:
                key = name if bench == "barrier" else f"{name}.{size}"
                sample[key] = metrics[metric]["p50"]
    if record["run"]["parameters"].get("imm") is False:
        return sample  # the limits are those of the row above
    for name, value in record.get("limits", {}).items():
        by_size = value if isinstance(value, dict) else {"": value}
        for size, limit in by_size.items():
            sample[f"limit.{name}.{size}"] = limit
    return sample
