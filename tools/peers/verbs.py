"""pgctl over RDMA devices, read from the record that `pgctl bench write --json -` prints."""

from functools import partial

from peers import ours
from peers.common import Pair, Row, Sample

SIZES = "8,4K,64K,1M"


def rows(pair: Pair) -> list[Row]:
    return [
        Row(ours.name(), "write with imm", partial(_measure, (), pair)),
        Row(ours.name(), "write", partial(_measure, ("--no-imm",), pair)),
    ]


def _measure(extra: tuple[str, ...], pair: Pair) -> Sample:
    words = ["--transport", "verbs", "--sizes", SIZES, "-D", str(pair.seconds), *extra]
    words += ["--nics", "=" + ",".join(dict.fromkeys(pair.devices)), "--nics-per-rank", "1"]
    if pair.gid_index is not None:
        words += ["--gid-index", str(pair.gid_index)]
    return ours.means(ours.write_record(words, pair.cores), counted=not extra)
