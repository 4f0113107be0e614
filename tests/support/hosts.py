"""Two hosts on one machine: network namespaces with NICs that can be slow, down, or not there.

Host a and host b have eth0 each, a line for control alone, and a NIC eth1, eth2, … for each rail,
with a subnet for each: 198.18.k.1 and 198.18.k.2. What comes from the address of a NIC leaves by
that NIC. A rail is a cable, so that a NIC reaches its counterpart alone; or all NICs are plugged
into one switch, where every one reaches every other.

Run as a program, this runs a command on host a; mpirun then starts a rank on each host:
hosts.py --mbit-s 200,200,200,200 mpirun -n 2 pgctl bench write
"""

import argparse
import atexit
import contextlib
import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from lab import down, on

DEADLINE_S = 30.0
CONTROL = "eth0"
NAME = re.compile(r"pgctl-(\d+)-\w+")
"""Of a namespace: whose it is, so that what a process leaves behind is found by the next."""
BURST = "64kb"
"""What a NIC with a rate may send at once: the largest packet that TCP makes."""
QUEUE = "1mb"
"""What may wait in front of it; the rest is lost."""
AGENT = """#!/bin/sh
# As rsh: a host and the words of a command. Each host has a name of its own, and cores.
case $1 in
{cases}
*) echo "there is no host $1" >&2; exit 1 ;;
esac
shift
exec taskset -c $cores unshare --uts \\
	sh -c "echo $name >/proc/sys/kernel/hostname; exec ip netns exec $space $*"
"""


class NetworkError(Exception):
    """What ip or tc say."""


def batch(tool, lines, host=None):
    """Run lines of ip or tc."""
    command = [tool, *(["-n", host] if host else []), "-batch", "-"]
    text = "".join(f"{line}\n" for line in lines)
    ran = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    if ran.returncode:
        raise NetworkError(f"{tool}: {'; '.join(lines)}: {' '.join(ran.stderr.split())}")


def missing():
    """Why this machine has no such hosts; empty: it has."""
    trial = f"pgctl-{os.getpid()}-trial"
    try:
        batch("ip", [f"netns add {trial}"])
        try:
            batch("ip", ["link add eth0 type veth peer name eth1"], trial)
            batch("tc", [f"qdisc add dev eth0 root {rate(1000)}"], trial)
        finally:
            batch("ip", [f"netns del {trial}"])
    except FileNotFoundError as error:
        return f"no {error.filename}: iproute2 is not installed"
    except NetworkError as error:
        return str(error)
    return ""


def remove_left():
    """Namespaces of processes that were killed."""
    for name in NAME.finditer(on(None, "ip", "netns", "list")):
        if not Path(f"/proc/{name[1]}").exists():
            batch("ip", [f"netns del {name[0]}"])


def rate(mbit_s, queue=QUEUE):
    return f"tbf rate {mbit_s}mbit burst {BURST} limit {queue}"


class Network:
    """Hosts a and b, by the names of their namespaces."""

    def __init__(self, name, rails=4, switch=False):
        """name: of this network among those of this process."""
        remove_left()
        mine = f"pgctl-{os.getpid()}-{name}"
        self.a, self.b = self.hosts = f"{mine}a", f"{mine}b"
        self.switch = f"{mine}s" if switch else None
        self.nics = [f"eth{k + 1}" for k in range(rails)]
        atexit.register(self.close)
        try:
            self._build()
        except BaseException:
            self.close()
            raise

    def _build(self):
        spaces = [*self.hosts, *filter(None, [self.switch])]
        batch("ip", [f"netns add {space}" for space in spaces])
        if self.switch:
            batch("ip", ["link add switch type bridge", "link set switch up"], self.switch)
        for host in self.hosts:
            self._set(host, "rp_filter", 0)
            self._set(host, "arp_ignore", 1)  # a NIC answers for its own address alone
            self._set(host, "arp_announce", 2)
            batch("ip", ["link set lo up"], host)
            for nic in self.nics:
                mine = f"rule add from {self.address(host, nic)}"
                way = f"lookup {table(nic)}" if self.switch else f"to {subnet(nic)} lookup main"
                batch("ip", [f"{mine} {way} pref 100", f"{mine} unreachable pref 200"], host)
        self._cable(CONTROL)
        self._configure(CONTROL)
        for nic in self.nics:
            self._plug(nic)
        self._await_carrier()

    @staticmethod
    def _set(host, name, value):
        path = "/proc/sys/net/ipv4/conf"
        on(host, "sh", "-c", f"echo {value} | tee {path}/all/{name} {path}/default/{name}")

    def _plug(self, nic):
        if self.switch:
            for host in self.hosts:
                port = f"{nic}{host[-1]}"
                self._link(self._end(host, nic), f"name {port} netns {self.switch}")
                batch("ip", [f"link set {port} master switch up"], self.switch)
        else:
            self._cable(nic)
        self._configure(nic)

    def _cable(self, nic):
        self._link(self._end(self.a, nic), self._end(self.b, nic))

    @staticmethod
    def _link(end, other):
        batch("ip", [f"link add {end} type veth peer {other}"])

    def _end(self, host, nic):
        """A NIC that was unplugged and is back has the MAC address that others know."""
        mac = f"02:00:c6:12:{number(nic):02x}:{1 + self.hosts.index(host):02x}"
        return f"name {nic} address {mac} netns {host}"

    def _configure(self, nic):
        for host in self.hosts:
            address = self.address(host, nic)
            batch("ip", [f"addr add {address}/24 dev {nic}", f"link set {nic} up"], host)
            self._route(host, nic)

    def _route(self, host, nic):
        """To all NICs of a switch; the kernel forgets that when the NIC goes down."""
        if self.switch and nic != CONTROL:
            batch("ip", [f"route replace 198.18.0.0/16 dev {nic} table {table(nic)}"], host)

    def _await_carrier(self):
        """The kernel may say up to a second later that a NIC that is up can send."""
        end = time.monotonic() + DEADLINE_S
        for host in self.hosts:
            for nic in self.nics:
                while on(host, "cat", f"/sys/class/net/{nic}/operstate") != "up\n":
                    if time.monotonic() > end:
                        raise NetworkError(f"{nic} of {host} is not up after {DEADLINE_S} s")
                    time.sleep(0.01)

    def address(self, host, nic):
        return f"198.18.{number(nic)}.{1 + self.hosts.index(host)}"

    def sent(self, host):
        """Bytes by NIC, as its driver counts them."""
        return self._count(host, "tx")

    def received(self, host):
        return self._count(host, "rx")

    def _count(self, host, way):
        links = json.loads(on(host, "ip", "-s", "-j", "link"))
        found = {link["ifname"]: link["stats64"][way]["bytes"] for link in links}
        return [found[nic] for nic in self.nics]

    @contextlib.contextmanager
    def shaped(self, *mbit_s, queue=QUEUE):
        """Each NIC, on both hosts, sends so fast meanwhile."""
        with contextlib.ExitStack() as stack:
            for host in self.hosts:
                for nic, speed in zip(self.nics, mbit_s, strict=True):
                    batch("tc", [f"qdisc add dev {nic} root {rate(speed, queue)}"], host)
                    stack.callback(batch, "tc", [f"qdisc del dev {nic} root"], host)
            yield

    def lost(self, host):
        """Packets by NIC for which there was no room, since they were shaped."""
        queues = json.loads(on(host, "tc", "-s", "-j", "qdisc"))
        found = {queue["dev"]: queue["drops"] for queue in queues if queue["kind"] == "tbf"}
        return [found[nic] for nic in self.nics]

    @contextlib.contextmanager
    def down(self, host, nic):
        try:
            with down(nic, host):
                yield
        finally:
            self._route(host, nic)
            self._await_carrier()

    @contextlib.contextmanager
    def unplugged(self, nic):
        """The rail's NICs are not there meanwhile."""
        for host in self.hosts if self.switch else [self.a]:
            batch("ip", [f"link del {nic}"], host)
        try:
            yield
        finally:
            self._plug(nic)
            self._await_carrier()

    @contextlib.contextmanager
    def swallowed(self, host, nic):
        """What a NIC sends to its counterpart is lost meanwhile, and nobody says so."""
        other = self.address(self.b if host == self.a else self.a, nic)
        nobody = f"neigh replace {other} lladdr 02:00:00:00:00:01 dev {nic} nud permanent"
        batch("ip", [nobody], host)
        try:
            yield
        finally:
            batch("ip", [f"neigh del {other} dev {nic}"], host)

    def command(self, folder, *words):
        """A command as run on host a, and what its environment has for mpirun (MPICH's).

        folder: for files that it needs as long as it runs.
        """
        agent, hosts = folder / "agent", folder / "hosts"
        cores = sorted(os.sched_getaffinity(0))
        known, cases = [], []
        for i, host in enumerate(self.hosts):
            known.append(self.address(host, CONTROL))
            mine = ",".join(map(str, cores[i::2] or cores))
            cases.append(f"{known[i]}) name={host[-1]} space={host} cores={mine} ;;")
        agent.write_text(AGENT.format(cases="\n".join(cases)))
        agent.chmod(0o755)
        hosts.write_text("".join(f"{address}:1\n" for address in known))
        environ = {
            "HYDRA_LAUNCHER": "rsh",
            "HYDRA_LAUNCHER_EXEC": str(agent),
            "HYDRA_HOST_FILE": str(hosts),
        }
        return [agent, known[0], shlex.join(words)], environ

    def close(self):
        """What runs there keeps its namespace, without a name."""
        atexit.unregister(self.close)
        known = on(None, "ip", "netns", "list").split()
        for space in (*self.hosts, self.switch):
            if space in known:
                batch("ip", [f"netns del {space}"])


def number(nic):
    return int(nic.removeprefix("eth"))


def subnet(nic):
    return f"198.18.{number(nic)}.0/24"


def table(nic):
    """Number of the routes of a NIC."""
    return 100 + number(nic)


def main():
    parser = argparse.ArgumentParser(description="Run a command on one of two hosts.")
    parser.add_argument("--rails", type=int, default=4)
    parser.add_argument("--switch", action="store_true", help="every NIC reaches every other")
    parser.add_argument("--mbit-s", help="of each rail: 400,200,100,100")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    args = parser.parse_args()
    if reason := missing():
        sys.exit(reason)
    with contextlib.ExitStack() as stack:
        network = Network("run", args.rails, args.switch)
        stack.callback(network.close)
        if args.mbit_s:
            stack.enter_context(network.shaped(*args.mbit_s.split(",")))
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        command, environ = network.command(Path(folder), *args.command)
        sys.exit(subprocess.run(command, env=os.environ | environ, check=False).returncode)


if __name__ == "__main__":
    main()
