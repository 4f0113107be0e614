"""Memory of a GPU for the time of a trial, from the CUDA driver that is opened for it."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

_LIBRARY = "libcuda.so.1"
"""By this name the engine finds it again, and asks it what memory of a GPU is."""


class CudaError(Exception):
    """A call of the CUDA driver failed."""


class NoGpuMemoryError(Exception):
    """There is no memory of that GPU to try anything with."""


@dataclass(frozen=True, slots=True)
class GpuMemory:
    driver: _Driver
    address: int
    length: int

    def fill(self, data: bytes) -> None:
        """With as many bytes as it has; they are there when this returns."""
        self.driver.call("cuMemcpyHtoD_v2", ctypes.c_uint64(self.address), data, self._size)
        self.driver.call("cuCtxSynchronize")

    def copy(self) -> bytearray:
        data = bytearray(self.length)
        view = (ctypes.c_uint8 * self.length).from_buffer(data)
        self.driver.call("cuMemcpyDtoH_v2", view, ctypes.c_uint64(self.address), self._size)
        return data

    @property
    def _size(self) -> ctypes.c_size_t:
        return ctypes.c_size_t(self.length)


@contextmanager
def gpu_memory(gpu: str, length: int, begin: Callable[[str], None]) -> Iterator[GpuMemory]:
    """gpu: its PCI address. begin hears of every step.

    For one thread of a process that ends after an error: then the driver frees it by itself.
    Raises NoGpuMemoryError, and CudaError when it is used and freed.
    """
    begin(f"opening {_LIBRARY}")
    try:
        driver = _Driver()
        begin("starting CUDA")
        driver.call("cuInit", 0)
        device, context, address = ctypes.c_int(), ctypes.c_void_p(), ctypes.c_uint64()
        driver.call("cuDeviceGetByPCIBusId", ctypes.byref(device), gpu.encode())
        begin("opening the GPU")
        driver.call("cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
        driver.call("cuCtxSetCurrent", context)
        driver.call("cuMemAlloc_v2", ctypes.byref(address), ctypes.c_size_t(length))
    except CudaError as error:
        raise NoGpuMemoryError(str(error)) from None
    yield GpuMemory(driver, address.value, length)
    begin("freeing memory of the GPU")
    driver.call("cuMemFree_v2", address)
    driver.call("cuDevicePrimaryCtxRelease_v2", device)


class _Driver:
    def __init__(self) -> None:
        try:
            self._library = ctypes.CDLL(_LIBRARY)
        except OSError as error:
            raise CudaError(str(error)) from None

    def call(self, name: str, *args: object) -> None:
        function = getattr(self._library, name, None)
        if function is None:
            raise CudaError(f"the CUDA driver has no {name}")
        if status := function(*args):
            raise CudaError(f"{name.removesuffix('_v2')}: {self._named(status)}")

    def _named(self, status: int) -> str:
        name = ctypes.c_char_p()
        self._library.cuGetErrorName(status, ctypes.byref(name))
        return name.value.decode() if name.value else f"error {status}"
