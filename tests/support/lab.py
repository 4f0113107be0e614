"""The lab's network: its NICs, RDMA devices and hosts, and what happens to them.

A host is a network namespace (layout nodes), or None: this one (layout four).
"""

import contextlib
import subprocess


def there(host, *words):
    """A command as run on a host."""
    return ["ip", "netns", "exec", host, *words] if host else list(words)


def on(host, *words):
    """Run a command on a host; what it prints."""
    command = there(host, *words)
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def state(device):
    return on(None, "cat", f"/sys/class/infiniband/{device}/ports/1/state").strip()


@contextlib.contextmanager
def down(netdev, host=None):
    """The NIC is not there meanwhile."""
    on(host, "ip", "link", "set", netdev, "down")
    try:
        yield
    finally:
        on(host, "ip", "link", "set", netdev, "up")


@contextlib.contextmanager
def mtu(netdev, meanwhile, usual):
    on(None, "ip", "link", "set", netdev, "mtu", str(meanwhile))
    try:
        yield
    finally:
        on(None, "ip", "link", "set", netdev, "mtu", str(usual))


@contextlib.contextmanager
def bad_line(netdev, *netem, host=None):
    """What a NIC sends is lost, late or out of order meanwhile."""
    on(host, "tc", "qdisc", "add", "dev", netdev, "root", "netem", *netem)
    try:
        yield
    finally:
        on(host, "tc", "qdisc", "del", "dev", netdev, "root")


@contextlib.contextmanager
def deleted(device, netdev, host=None):
    """The RDMA device is not there meanwhile."""
    on(host, "rdma", "link", "del", device)
    try:
        yield
    finally:
        on(host, "rdma", "link", "add", device, "type", "rxe", "netdev", netdev)
        if host:  # it comes into being in the first namespace, wherever one asks for it
            on(None, "rdma", "dev", "set", device, "netns", host)
