"""The kernel, its modules, the limits of this process, and whether it lives in a container."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from pgctl.hardware.cpu import field
from pgctl.hardware.root import Fact, Root, base, natural_number, unknown

UNLIMITED = 1 << 64
"""Stands for no limit, so that limits compare."""

_IPC_LOCK = 1 << 14
_MODULES = ("nvidia_peermem", "nv_peer_mem", "efa_nv_peermem", "efa", "ib_uverbs", "gdrdrv")
_PEER_MEMORY = "/sys/kernel/mm/memory_peers"
_LIBRARIES = {
    "libibverbs": "libibverbs.so.1",
    "librdmacm": "librdmacm.so.1",
    "libfabric": "libfabric.so.1",
}
_LIBRARY_PLACES = (
    *("/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib64", "/usr/lib"),
    *("/usr/local/lib", "/usr/local/lib64", "/opt/amazon/efa/lib", "/opt/amazon/efa/lib64"),
)
_LIBRARY_CACHE = "/etc/ld.so.cache"
_PROVIDERS = "/etc/libibverbs.d"
_ENVIRONMENT = re.compile(r"(NCCL|CUDA|UCX|FI|MC)_[A-Z0-9_]+|KUBERNETES_SERVICE_HOST")
_CONTAINER_GROUPS = {
    "kubepods": "Kubernetes",
    "docker": "Docker",
    "libpod": "Podman",
    "containerd": "containerd",
    "lxc": "LXC",
}


@dataclass(frozen=True, slots=True)
class Nvidia:
    """The driver."""

    version: Fact[str]
    open_kernel: Fact[bool]
    params: Fact[Mapping[str, str]]


@dataclass(frozen=True, slots=True)
class System:
    host: Fact[str]
    kernel: Fact[str]
    product: Fact[str]
    container: Fact[str]
    """Which kind; unknown where nothing shows one."""
    modules: Mapping[str, Fact[str]]
    """Those that RDMA needs: by name, version or "loaded"."""
    peer_memory: Fact[tuple[str, ...]]
    """Clients of the peer-memory interface in the kernel."""
    memlock: Fact[int]
    """Bytes, UNLIMITED for no limit."""
    ipc_lock: Fact[bool]
    """Whether the process may lock memory regardless."""
    max_map_count: Fact[int]
    hugepages: Mapping[str, int]
    """Pages set aside, by size in KiB."""
    transparent_hugepages: Fact[str]
    gdrcopy: Fact[bool]
    nvidia: Nvidia
    libraries: Mapping[str, Fact[str]]
    """By name, where it is; with its version, where the file has one."""
    providers: Fact[tuple[str, ...]]
    """Of libibverbs."""
    environment: Fact[Mapping[str, str]]
    """Of this process, as far as it steers RDMA."""

    @property
    def kernel_version(self) -> tuple[int, int] | None:
        return parse_kernel(self.kernel.value or "")


def parse_kernel(release: str) -> tuple[int, int] | None:
    match = re.match(r"(\d{1,4})\.(\d{1,4})", release)
    return (int(match[1]), int(match[2])) if match else None


def read_system(root: Root) -> System:
    environment = root.read("/proc/self/environ", _environment)
    status = root.text("/proc/self/status")
    return System(
        host=root.text("/proc/sys/kernel/hostname"),
        kernel=root.text("/proc/sys/kernel/osrelease"),
        product=_product(root),
        container=_container(root, environment),
        modules={name: _module(root, name) for name in _MODULES},
        peer_memory=root.names(_PEER_MEMORY),
        memlock=root.read("/proc/self/limits", _memlock),
        ipc_lock=status.map(lambda text: bool(int(field(text, "CapEff"), 16) & _IPC_LOCK)),
        max_map_count=root.read("/proc/sys/vm/max_map_count", natural_number),
        hugepages=_hugepages(root),
        transparent_hugepages=root.read("/sys/kernel/mm/transparent_hugepage/enabled", _chosen),
        gdrcopy=root.openable("/dev/gdrdrv"),
        nvidia=_nvidia(root),
        libraries={name: _library(root, file) for name, file in _LIBRARIES.items()},
        providers=root.names(_PROVIDERS).map(_provider_names),
        environment=environment,
    )


def _product(root: Root) -> Fact[str]:
    vendor = root.text("/sys/class/dmi/id/sys_vendor")
    name = root.text("/sys/class/dmi/id/product_name")
    if vendor.value is None or name.value is None:
        return vendor if name.known else name
    return Fact(f"{vendor.value} {name.value}", name.source)


def _container(root: Root, environment: Fact[Mapping[str, str]]) -> Fact[str]:
    if "KUBERNETES_SERVICE_HOST" in (environment.value or {}):
        return Fact("Kubernetes", environment.source)
    for path, kind in (("/.dockerenv", "Docker"), ("/run/.containerenv", "Podman")):
        if root.exists(path):
            return Fact(kind, path)
    groups = root.text("/proc/1/cgroup")
    for mark, kind in _CONTAINER_GROUPS.items():
        if mark in (groups.value or ""):
            return Fact(kind, groups.source)
    return unknown(groups.source, groups.why or "no sign of one")


def _module(root: Root, name: str) -> Fact[str]:
    path = f"/sys/module/{name}"
    version = root.text(f"{path}/version")
    if version.known or not root.exists(path):
        return Fact(version.value, version.source, version.why)
    return Fact("loaded", path)


def _memlock(text: str) -> int:
    """The soft limit in /proc/self/limits."""
    for line in text.splitlines():
        if line.startswith("Max locked memory"):
            soft = line.removeprefix("Max locked memory").split()[:1]
            return UNLIMITED if soft == ["unlimited"] else natural_number("".join(soft))
    raise ValueError("it has no line of locked memory")


def _hugepages(root: Root) -> dict[str, int]:
    path = "/sys/kernel/mm/hugepages"
    found = {}
    for name in root.names(path).value or ():
        count = root.read(f"{path}/{name}/nr_hugepages", natural_number).value
        if count is not None:
            found[name.removeprefix("hugepages-").removesuffix("kB")] = count
    return found


def _chosen(text: str) -> str:
    """What stands in brackets."""
    match = re.search(r"\[(\w+)\]", text)
    if match is None:
        raise ValueError(f"it says {text[:40]!r}")
    return match[1]


def _nvidia(root: Root) -> Nvidia:
    version = root.text("/proc/driver/nvidia/version")
    return Nvidia(
        version=version.map(_nvidia_version),
        open_kernel=version.map(lambda text: "open kernel" in text.lower()),
        params=root.read("/proc/driver/nvidia/params", _params),
    )


def _nvidia_version(text: str) -> str:
    match = re.search(r"\s(\d+\.\d+(?:\.\d+)?)\s", text)
    if match is None:
        raise ValueError("it names no version")
    return match[1]


def _params(text: str) -> Mapping[str, str]:
    pairs = (line.partition(":") for line in text.splitlines())
    return {name.strip(): value.strip() for name, colon, value in pairs if colon}


def _library(root: Root, file: str) -> Fact[str]:
    for place in _LIBRARY_PLACES:
        if root.exists(f"{place}/{file}"):
            versioned = root.link(f"{place}/{file}").value
            return Fact(f"{place}/{base(versioned) if versioned else file}", place)
    cache = root.raw(_LIBRARY_CACHE)
    found = re.search(rb"/[!-~]+/" + re.escape(file.encode()) + rb"(?=\0)", cache.value or b"")
    if found is not None:
        return Fact(found[0].decode(), cache.source)
    return unknown(file, "in none of the usual directories")


def _provider_names(names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(name.removesuffix(".driver") for name in names if name.endswith(".driver"))


def _environment(text: str) -> Mapping[str, str]:
    pairs = (item.partition("=") for item in text.split("\0"))
    return {name: value for name, _, value in pairs if _ENVIRONMENT.fullmatch(name)}
