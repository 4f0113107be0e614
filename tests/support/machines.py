"""Machines out of nothing: the part of /sys, /proc, /dev and /etc that probe reads.

`Machine` lays out files; the functions below it build whole hosts, all of them healthy.
"""

import os
from pathlib import Path

GPU, VGA, IB, ETHERNET, BRIDGE = 0x030200, 0x030000, 0x020700, 0x020000, 0x060400
NVIDIA, MELLANOX, AMAZON, ASPEED, INTEL = 0x10DE, 0x15B3, 0x1D0F, 0x1A03, 0x8086

MEMORY_64 = 0x14220C
"""Flags of a BAR: 64 bits, prefetchable."""
GEN5 = (32.0, 16)


def config_space(acs=0x0000, command=0x0406):
    """4096 bytes; the first extended capability is ACS."""
    space = bytearray(4096)
    space[4:6] = command.to_bytes(2, "little")
    space[0x100:0x104] = (0x000D | 1 << 16).to_bytes(4, "little")
    space[0x106:0x108] = acs.to_bytes(2, "little")
    return bytes(space)


def put(file, text):
    """A new file, so that a copy of hard links is not written through."""
    file.unlink(missing_ok=True)
    file.write_bytes(text if isinstance(text, bytes) else f"{text}\n".encode())


class Machine:
    def __init__(self, root):
        self.root = Path(root)
        self.devices = {}
        """By PCI address, the directory of a device."""

    # ---- files

    def write(self, path, text):
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        put(file, text)

    def link(self, path, target):
        """A symbolic link, relative as the kernel makes them."""
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.symlink_to(os.path.relpath(self.root / target, file.parent))

    def remove(self, pattern):
        """Files, links and directories; there must be some."""
        found = sorted(self.root.glob(pattern), reverse=True)
        assert found, pattern
        for path in found:
            if path.is_dir() and not path.is_symlink():
                for below in sorted(path.rglob("*"), reverse=True):
                    below.rmdir() if below.is_dir() and not below.is_symlink() else below.unlink()
                path.rmdir()
            else:
                path.unlink()

    def change(self, pattern, text):
        """Every file that is there under this name."""
        found = list(self.root.glob(pattern))
        assert found, pattern
        for path in found:
            put(path, text)

    def limit_memlock(self, soft):
        head = "Limit                     Soft Limit           Hard Limit           Units     "
        self.write("proc/self/limits", f"{head}\nMax locked memory         {soft} unlimited bytes")

    def status(self, cpus, capabilities="0000000000000000"):
        self.write("proc/self/status", f"CapEff:\t{capabilities}\nCpus_allowed_list:\t{cpus}")

    def environ(self, **variables):
        pairs = [f"{name}={value}\0" for name, value in variables.items()]
        self.write("proc/self/environ", "".join(pairs).encode())

    # ---- the host

    def host(self, *, sockets=2, cores=8, threads=2, kernel="6.8.0-45-generic"):
        self.write("proc/sys/kernel/hostname", "gpu01")
        self.write("proc/sys/kernel/osrelease", kernel)
        self.write("proc/sys/vm/max_map_count", "262144")
        self.write("proc/cpuinfo", "processor\t: 0\nmodel name\t: Xeon 8480C\nflags\t\t: fpu sse2")
        self.write("sys/class/dmi/id/sys_vendor", "Supermicro")
        self.write("sys/class/dmi/id/product_name", "SYS-821GE")
        self.write("sys/kernel/mm/transparent_hugepage/enabled", "always [madvise] never")
        self.write("sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages", "0")
        self.limit_memlock("unlimited")
        self.environ(HOME="/root")
        count = sockets * cores
        last = count * threads - 1
        self.status(f"0-{last}")
        cpu = "sys/devices/system/cpu"
        self.write(f"{cpu}/online", f"0-{last}")
        for number in range(last + 1):
            core = number % count
            siblings = ",".join(str(core + i * count) for i in range(threads))
            self.write(f"{cpu}/cpu{number}/topology/core_cpus_list", siblings)
            self.write(f"{cpu}/cpu{number}/cpufreq/scaling_governor", "performance")
        for socket in range(sockets):
            ranges = [
                f"{socket * cores + i * count}-{socket * cores + i * count + cores - 1}"
                for i in range(threads)
            ]
            self.write(f"sys/devices/system/node/node{socket}/cpulist", ",".join(ranges))
        for library in ("libibverbs.so.1", "librdmacm.so.1"):
            self.write(f"usr/lib/x86_64-linux-gnu/{library}", "")

    # ---- PCI

    def host_bridge(self, number):
        path = f"sys/devices/pci0000:{number:02x}"
        (self.root / path).mkdir(parents=True, exist_ok=True)
        return path

    def pci(self, above, address, kind, vendor, device, *, numa, driver=None, link=GEN5):
        """A device below `above`, a path; returns its own."""
        path = f"{above}/{address}"
        self.devices[address] = path
        self.write(f"{path}/class", f"{kind:#08x}")
        self.write(f"{path}/vendor", f"{vendor:#06x}")
        self.write(f"{path}/device", f"{device:#06x}")
        self.write(f"{path}/numa_node", numa)
        self.write(f"{path}/config", config_space())
        speed, width = link
        for which in ("current", "max"):
            self.write(f"{path}/{which}_link_speed", f"{speed} GT/s PCIe")
            self.write(f"{path}/{which}_link_width", width)
        self.write(f"{path}/iommu_group/type", "identity")
        if driver:
            (self.root / f"sys/bus/pci/drivers/{driver}").mkdir(parents=True, exist_ok=True)
            self.link(f"{path}/driver", f"sys/bus/pci/drivers/{driver}")
        self.link(f"sys/bus/pci/devices/{address}", path)
        return path

    def bars(self, path, *sizes):
        """64-bit BARs of these sizes, then the empty ones."""
        start, lines = 0x1000_0000_0000, []
        for size in sizes:
            lines += [f"{start:#018x} {start + size - 1:#018x} {MEMORY_64:#018x}"]
            lines += [f"{0:#018x} {0:#018x} {0:#018x}"]
            start += size
        self.write(f"{path}/resource", "\n".join(lines))

    def switch(self, bus, ports, *, numa, link=GEN5):
        """A root port and a switch with so many ports; returns the paths of these."""
        root = self.host_bridge(bus)
        port = self.pci(root, f"0000:{bus:02x}:01.0", BRIDGE, INTEL, 0x352A, numa=numa, link=link)
        up = f"0000:{bus + 1:02x}:00.0"
        upstream = self.pci(port, up, BRIDGE, 0x1000, 0xC030, numa=numa, link=link)
        return [
            self.pci(
                upstream, f"0000:{bus + 2:02x}:{i:02x}.0", BRIDGE, 0x1000, 0xC030, numa=numa,
                link=link,
            )
            for i in range(ports)
        ]  # fmt: skip

    def gpu(self, above, address, *, numa, link=GEN5):
        path = self.pci(above, address, GPU, NVIDIA, 0x2330, numa=numa, driver="nvidia", link=link)
        self.bars(path, 16 << 20, 128 << 30, 32 << 20)
        model = "Model: \t\t NVIDIA H100 80GB HBM3\nGPU UUID: \t GPU-472159bb"
        self.write(f"proc/driver/nvidia/gpus/{address}/information", model)
        return path

    def nvidia_driver(self):
        kind = "NVIDIA UNIX Open Kernel Module for x86_64"
        self.write("proc/driver/nvidia/version", f"NVRM version: {kind}  580.95.05  Release Build")
        params = 'EnableStreamMemOPs: 1\nRegistryDwords: "PeerMappingOverride=1;"'
        self.write("proc/driver/nvidia/params", params)
        self.write("sys/module/nvidia_peermem/version", "580.95.05")
        self.write("dev/gdrdrv", "")

    def console(self, above, address):
        """The display controller of a management processor: no GPU."""
        path = self.pci(above, address, VGA, ASPEED, 0x2000, numa=0, driver="ast")
        self.write(f"{path}/resource", f"{0x9C000000:#018x} {0x9CFFFFFF:#018x} {0x40200:#018x}")

    # ---- RDMA

    def rdma(self, device, name, *, gbit_s, layer="InfiniBand", ports=1, board="MT_0000000838"):
        """The RDMA device of a PCI device's directory."""
        path = f"{device}/infiniband/{name}"
        self.link(f"sys/class/infiniband/{name}", path)
        self.write(f"{path}/node_type", "1: CA")
        self.write(f"{path}/fw_ver", "28.39.1002")
        self.write(f"{path}/board_id", board)
        number = len(list(self.root.glob("dev/infiniband/uverbs*")))
        self.write(f"sys/class/infiniband_verbs/uverbs{number}/ibdev", name)
        self.write(f"dev/infiniband/uverbs{number}", "")
        for port in range(1, ports + 1):
            here = f"{path}/ports/{port}"
            self.write(f"{here}/state", "4: ACTIVE")
            self.write(f"{here}/phys_state", "5: LinkUp")
            self.write(f"{here}/link_layer", layer)
            self.write(f"{here}/rate", f"{gbit_s} Gb/sec (4X NDR)")
            self.write(f"{here}/gids/0", "fe80:0000:0000:0000:a288:c2ff:fe00:0001")
            self.write(f"{here}/pkeys/0", "0xffff")
            for counter in ("port_xmit_data", "link_downed"):
                self.write(f"{here}/counters/{counter}", "12345")
        return path

    def roce(self, device, name, netdev, number, *, gbit_s):
        """An RDMA device over an Ethernet interface with an address."""
        path = self.rdma(device, name, gbit_s=gbit_s, layer="Ethernet")
        here = f"{path}/ports/1"
        gids = [
            ("IB/RoCE v1", "fe80:0000:0000:0000:a288:c2ff:fe00:0001"),
            ("RoCE v2", "fe80:0000:0000:0000:a288:c2ff:fe00:0001"),
            ("RoCE v2", f"0000:0000:0000:0000:0000:ffff:0a00:{number + 1:04x}"),
        ]
        for index, (kind, gid) in enumerate(gids):
            self.write(f"{here}/gids/{index}", gid)
            self.write(f"{here}/gid_attrs/types/{index}", kind)
            self.write(f"{here}/gid_attrs/ndevs/{index}", netdev)
        self.write(f"{here}/gids/3", "0000:0000:0000:0000:0000:0000:0000:0000")
        self.write(f"{path}/tc/1/traffic_class", "Global tclass=106")
        self.netdev(f"{device}/net/{netdev}", mbit_s=gbit_s * 1000)

    def netdev(self, path, *, mbit_s=1000, mtu=9000, state="up"):
        name = Path(path).name
        self.write(f"{path}/mtu", mtu)
        self.write(f"{path}/operstate", state)
        self.write(f"{path}/speed", mbit_s)
        self.link(f"sys/class/net/{name}", path)

    def bond(self, name, *members, mbit_s):
        path = f"sys/devices/virtual/net/{name}"
        self.netdev(path, mbit_s=mbit_s)
        self.write(f"{path}/bonding/slaves", " ".join(members))
        self.write(f"{path}/bonding/mode", "802.3ad 4")
        for member in members:
            self.link(f"sys/class/net/{member}/master", path)

    def provider(self, name):
        self.write(f"etc/libibverbs.d/{name}.driver", f"driver {name}")


def _bus(switch):
    return 0x10 + 0x18 * switch


def cx7(root):
    """8 GPUs, each beside a ConnectX-7 on a switch of its own: RoCE, 400 Gb/s."""
    machine = Machine(root)
    machine.host()
    machine.nvidia_driver()
    machine.provider("mlx5")
    for i in range(8):
        bus, numa = _bus(i), i // 4
        ports = machine.switch(bus, 2, numa=numa)
        machine.gpu(ports[0], f"0000:{bus + 3:02x}:00.0", numa=numa)
        nic = machine.pci(
            ports[1], f"0000:{bus + 4:02x}:00.0", ETHERNET, MELLANOX, 0x1021, numa=numa,
            driver="mlx5_core",
        )  # fmt: skip
        machine.roce(nic, f"mlx5_{i}", f"ens{i}np0", i, gbit_s=400)
    machine.console(machine.host_bridge(0), "0000:00:02.0")
    return machine


def efa(root, per_gpu):
    """8 GPUs, each with its EFA adapters on a switch of its own."""
    machine = Machine(root)
    machine.host(cores=24, threads=1)
    machine.nvidia_driver()
    machine.provider("efa")
    machine.write("opt/amazon/efa/lib/libfabric.so.1", "")
    for i in range(8):
        bus, numa = _bus(i), i // 4
        ports = machine.switch(bus, 1 + per_gpu, numa=numa)
        machine.gpu(ports[0], f"0000:{bus + 3:02x}:00.0", numa=numa)
        for j, port in enumerate(ports[1:]):
            nic = machine.pci(
                port, f"0000:{bus + 4 + j:02x}:00.0", ETHERNET, AMAZON, 0xEFA2, numa=numa,
                driver="efa",
            )  # fmt: skip
            machine.rdma(
                nic, f"rdmap{bus + 4 + j}s0", gbit_s=400 // per_gpu, layer="Unspecified",
                board="EFA",
            )  # fmt: skip
    return machine


def shared(root):
    """8 GPUs on 4 switches, 2 GPUs and one InfiniBand NIC on each."""
    machine = Machine(root)
    machine.host()
    machine.nvidia_driver()
    machine.provider("mlx5")
    for i in range(4):
        bus, numa = _bus(i), i // 2
        ports = machine.switch(bus, 3, numa=numa)
        machine.gpu(ports[0], f"0000:{bus + 3:02x}:00.0", numa=numa)
        machine.gpu(ports[1], f"0000:{bus + 4:02x}:00.0", numa=numa)
        nic = machine.pci(
            ports[2], f"0000:{bus + 5:02x}:00.0", IB, MELLANOX, 0x101B, numa=numa,
            driver="mlx5_core",
        )  # fmt: skip
        machine.rdma(nic, f"mlx5_{i}", gbit_s=200)
    return machine


def laptop(root):
    """A display controller with little memory to see, a network card, nothing else."""
    machine = Machine(root)
    machine.host(sockets=1, cores=4, threads=2)
    bridge = machine.host_bridge(0)
    machine.pci(bridge, "0000:00:02.0", VGA, INTEL, 0x9A49, numa=-1, driver="i915")
    machine.write(f"{bridge}/0000:00:02.0/resource", "0xa0000000 0xa0ffffff 0x40200")
    card = machine.pci(bridge, "0000:00:1f.6", ETHERNET, INTEL, 0x15FC, numa=-1, driver="e1000e")
    machine.netdev(f"{card}/net/eno1", mbit_s=1000, mtu=1500)
    return machine


def container(root):
    """The host of `cx7`, seen from a container that got its /sys but not /dev/infiniband."""
    machine = cx7(root)
    machine.remove("dev/infiniband")
    machine.write(".dockerenv", "")
    return machine


MACHINES = {
    "cx7": cx7,
    "efa32": lambda root: efa(root, 4),
    "efa16": lambda root: efa(root, 2),
    "shared": shared,
    "laptop": laptop,
    "container": container,
}
