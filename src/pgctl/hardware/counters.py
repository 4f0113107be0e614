"""What the NICs themselves count: two readings of /sys/class/infiniband, and what lies between."""

from __future__ import annotations

from collections.abc import Mapping

from pgctl.hardware.nics import nic_name
from pgctl.hardware.rdma import CLASS
from pgctl.hardware.root import Root, natural_number

Counters = Mapping[str, int]

_SETTINGS = frozenset({"lifespan"})
"""Stand among the counters and count nothing."""
_DATA = (("port_xmit_data", "port_rcv_data", 4), ("tx_bytes", "rx_bytes", 1))
"""Out, in, and the bytes of a unit: InfiniBand counts words of four."""
_OF_DATA = frozenset(str(name) for names in _DATA for name in names[:2])
_STUCK = 2**32 - 1
"""Where a counter of 32 bits stops."""
_TROUBLES = (
    *("out_of_sequence", "out_of_seq_request", "rcvd_seq_err", "packet_seq_err"),
    *("duplicate_request", "local_ack_timeout_err", "completer_retry_err", "implied_nak_seq_err"),
    *("retry_exceeded_err", "retry_rnr_exceeded_err", "rnr_nak_retry_err", "rcvd_rnr_err"),
    *("send_rnr_err", "send_err", "np_cnp_sent", "rp_cnp_handled", "np_ecn_marked_roce_packets"),
    *("port_xmit_discards", "port_xmit_wait", "port_rcv_errors", "symbol_error"),
    *("link_downed", "link_error_recovery", "local_link_integrity_errors"),
)
"""What counts packets that were lost, late, marked or sent again."""


def read_counters(root: Root) -> dict[str, Counters]:
    """Everything that the ports count, by NIC."""
    found = {}
    for device in root.names(CLASS).value or ():
        ports = root.names(f"{CLASS}/{device}/ports").value or ()
        numbers = sorted(int(port) for port in ports if port.isdecimal())
        for number in numbers:
            found[nic_name(device, number, len(numbers))] = _of_port(root, device, number)
    return found


def growth(before: Counters, after: Counters) -> dict[str, int]:
    """By how much they have grown: those that have, and those of data in any case.

    Nothing about one that was reset meanwhile, or that has stopped.
    """
    grown = {
        name: value - before[name]
        for name, value in after.items()
        if before.get(name, value + 1) <= value != _STUCK
    }
    return {name: n for name, n in grown.items() if n or name in _OF_DATA}


def data_sent(counters: Counters) -> int | None:
    """Bytes, headers included; None: this device does not count them."""
    return _data(counters, 0)


def data_received(counters: Counters) -> int | None:
    return _data(counters, 1)


def troubles(counters: Counters) -> dict[str, int]:
    """Those that have counted something which a healthy fabric has none of."""
    return {name: counters[name] for name in _TROUBLES if counters.get(name)}


def _data(counters: Counters, way: int) -> int | None:
    for names in _DATA:
        if names[way] in counters:
            return counters[str(names[way])] * names[2]
    return None


def _of_port(root: Root, device: str, number: int) -> Counters:
    """Of the port; older drivers keep some with the device."""
    port = f"{CLASS}/{device}/ports/{number}"
    found: dict[str, int] = {}
    for path in (f"{CLASS}/{device}/hw_counters", f"{port}/hw_counters", f"{port}/counters"):
        for name in root.names(path).value or ():
            value = root.read(f"{path}/{name}", natural_number).value
            if value is not None and name not in _SETTINGS:
                found[name] = value
    return found
