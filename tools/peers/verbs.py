"""pgctl over RDMA devices, read from the record that `pgctl bench write --json -` prints."""

import json
import sys
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

from peers.common import Pair, Row, Sample, run

SIZES = "8,4K,64K,1M"


def rows(pair: Pair) -> list[Row]:
    who = f"**pgctl {metadata.version('pgctl')}**"
    return [
        Row(who, "write with imm", partial(_measure, (), pair)),
        Row(who, "write", partial(_measure, ("--no-imm",), pair)),
    ]


def _measure(extra: tuple[str, ...], pair: Pair) -> Sample:
    words = ["bench", "write", "--transport", "verbs", "--sizes", SIZES, *extra]
    words += ["--nics", "=" + ",".join(dict.fromkeys(pair.devices)), "--nics-per-rank", "1"]
    words += ["-N", "1", "-D", str(pair.seconds), "--no-check", "--json", "-"]
    if pair.gid_index is not None:
        words += ["--gid-index", str(pair.gid_index)]
    pinned = ["taskset", "-c", ",".join(map(str, pair.cores))]
    pgctl = str(Path(sys.executable).with_name("pgctl"))
    return _sample(json.loads(run([*pinned, pgctl, *words])), counted=not extra)


def _sample(record: dict[str, Any], counted: bool) -> Sample:
    """Means, as perftest has them; medians of latencies. Those are of writes that are counted."""
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
