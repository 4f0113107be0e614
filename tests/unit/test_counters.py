"""What NICs count, read from a machine that was made up."""

import pytest
from machines import Machine

from pgctl.hardware.counters import data_received, data_sent, growth, read_counters, troubles
from pgctl.hardware.root import Root

SYS = "sys/class/infiniband"


@pytest.fixture
def machine(tmp_path):
    """A card of two ports, and a Soft-RoCE device."""
    it = Machine(tmp_path)
    for port in (1, 2):
        it.write(f"{SYS}/mlx5_0/ports/{port}/counters/port_xmit_data", 1000 * port)
        it.write(f"{SYS}/mlx5_0/ports/{port}/counters/port_rcv_data", 7)
        it.write(f"{SYS}/mlx5_0/ports/{port}/hw_counters/lifespan", 10)
    it.write(f"{SYS}/mlx5_0/hw_counters/out_of_sequence", 3)
    it.write(f"{SYS}/rxe0/ports/1/hw_counters/sent_pkts", 12)
    it.write(f"{SYS}/rxe0/ports/1/hw_counters/broken", "no number")
    return it


def read(machine):
    return read_counters(Root(str(machine.root)))


def test_every_port_under_its_name(machine):
    assert read(machine) == {
        "mlx5_0:1": {"out_of_sequence": 3, "port_xmit_data": 1000, "port_rcv_data": 7},
        "mlx5_0:2": {"out_of_sequence": 3, "port_xmit_data": 2000, "port_rcv_data": 7},
        "rxe0": {"sent_pkts": 12},
    }


def test_a_machine_without_devices(tmp_path):
    assert read_counters(Root(str(tmp_path))) == {}


def test_what_lies_between(machine):
    before = read(machine)["mlx5_0:2"]
    machine.change(f"{SYS}/mlx5_0/ports/2/counters/port_xmit_data", 2250)
    machine.change(f"{SYS}/mlx5_0/hw_counters/out_of_sequence", 5)
    grown = growth(before, read(machine)["mlx5_0:2"])
    assert grown == {"out_of_sequence": 2, "port_xmit_data": 250, "port_rcv_data": 0}
    assert data_sent(grown) == 1000
    assert data_received(grown) == 0
    assert troubles(grown) == {"out_of_sequence": 2}


def test_counters_that_say_nothing_are_left_out():
    reset, stopped, new = {"a": 5}, {"a": 2**32 - 2}, {}
    assert growth(reset, {"a": 4}) == {}
    assert growth(stopped, {"a": 2**32 - 1}) == {}
    assert growth(new, {"a": 4}) == {}


def test_devices_that_count_bytes_and_devices_that_count_none():
    assert data_sent({"tx_bytes": 9, "rx_bytes": 8}) == 9
    assert data_received({"tx_bytes": 9, "rx_bytes": 8}) == 8
    assert data_sent({"sent_pkts": 3}) is None
    assert data_received({}) is None
