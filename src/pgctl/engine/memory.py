"""Memory that transfers read and write: ours, registered, and that of peers, imported."""

from __future__ import annotations

import errno
import math
import re
import weakref
from typing import TYPE_CHECKING, Any

from pgctl._ffi import ffi, lib
from pgctl.engine.config import limits_of
from pgctl.engine.held import Held
from pgctl.engine.native import check, new_error, unsigned
from pgctl.errors import PgBusy, PgInvalid, PgStale, PgUnsupported

if TYPE_CHECKING:
    from numpy.typing import DTypeLike, NDArray

    from pgctl.engine.engine import TransferEngine
    from pgctl.engine.group import Group


class MrDesc(bytes):
    """Names a region to peers: bytes that travel by any channel. Only the engine reads them.

    Who has it may write there.
    """

    __slots__ = ()

    def __repr__(self) -> str:
        return f"<MrDesc, {len(self)} bytes>"


# ---- Ours


class MemoryRegion(Held):
    """Memory that this engine reads from, and where peers that have its `desc` write.

    Made by TransferEngine.alloc_mr and reg_mr. Any thread may use it.
    """

    __slots__ = (
        "_desc",
        "_owned",
        "_window",
        "address",
        "engine",
        "gpu",
        "length",
        "pointer",
    )

    def __init__(
        self,
        engine: TransferEngine,
        group: Group,
        handle: int,
        pointer: Any,
        length: int,
        *,
        owned: bool,
        gpu: bool = False,
    ) -> None:
        super().__init__(group, handle, _forget_region)
        self.engine = engine
        self.pointer = pointer
        """For C: void *."""
        self.address = int(ffi.cast("uintptr_t", pointer))
        self.length = length
        self.gpu = gpu
        """Memory of a GPU, which a CPU cannot look at."""
        self._owned = owned
        self._desc: MrDesc | None = None
        self._window: weakref.ref[_Window] | None = None

    def __len__(self) -> int:
        return self.length

    def __repr__(self) -> str:
        return f"<MemoryRegion {self.handle:#x}, {self.length} bytes>"

    @property
    def desc(self) -> MrDesc:
        """What a peer needs to write here."""
        if self._desc is None:
            buffer = ffi.new("char[]", lib.PG_DESC_MAX)
            size = ffi.new("size_t *", lib.PG_DESC_MAX)
            check(lib.pg_mr_desc(self.group.c, self.handle, buffer, size))
            self._desc = MrDesc(ffi.buffer(buffer, size[0]))
        return self._desc

    def numpy(self, dtype: DTypeLike = "u1") -> NDArray[Any]:
        """The memory as a one-dimensional array, without a copy.

        The array keeps the region alive, and the memory of a region that was not closed before. The
        length must be a multiple of the item's size, else PgInvalid. Raises PgStale after close(),
        PgUnsupported for memory of a GPU.
        """
        import numpy as np

        if self.gpu:
            raise PgUnsupported(f"{self!r} is memory of a GPU, which numpy cannot look at")
        if self.length % (size := np.dtype(dtype).itemsize):
            raise PgInvalid(f"{self!r} is no whole number of items of {size} bytes")
        window = self._window() if self._window else None
        if window is None:
            window = _Window(self)
            self._window = weakref.ref(window)
            if self._owned:
                self.group.views.add(window)
        return np.asarray(window).view(dtype)

    @property
    def buffer(self) -> memoryview:
        """The memory as bytes; lives and keeps alive as the array of `numpy` does."""
        return self.numpy().data

    def __buffer__(self, flags: int) -> memoryview:  # from Python 3.12 on
        return self.buffer

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> NDArray[Any]:
        import numpy as np

        return np.array(self.numpy(), dtype=dtype, copy=copy)

    def close(self, timeout: float | None = None) -> None:
        """Revoke it: once this returns, no operation of ours reads it and no peer can write there.

        Engine memory is then freed. Later writes of peers end with PgStale. Idempotent.

        Waits for `timeout` seconds (None: the engine's op_timeout). Raises PgBusy, which names the
        peer, when one does not answer in time, or when operations still read it: the region stays
        registered, but peers stay refused, and calling again goes on. Raises PgBusy, and nothing
        has changed, when arrays show memory that would be freed.
        """
        if self.closed or self.group.forked:
            return
        if self._owned and self._window and self._window():
            raise PgBusy(f"{self!r} cannot be freed: numpy arrays or buffers still show it")
        limit = self.group.op_timeout if timeout is None else timeout
        error = new_error()

        def unregister(ns: int) -> int:
            return int(lib.pg_unreg_mr(self.group.c, self.handle, ns, error))

        rc = self.group.wait(unregister, limit, late=-errno.EBUSY)
        if rc != -errno.ESTALE:  # another thread was faster
            check(rc, error)
        self._finalizer.detach()
        self.group.kept.pop(self.handle, None)

    unreg = close


def _forget_region(ref: weakref.ref[Group], handle: int) -> None:
    """What is still read or written stays registered, and alive, until that has ended."""
    group = ref()
    if group and group.raw and not group.forked:
        group.leave(handle)


class _Window:
    """What numpy arrays over a region have as their base."""

    __slots__ = ("__array_interface__", "__weakref__", "held")

    def __init__(self, region: MemoryRegion) -> None:
        if region.closed:
            raise PgStale(f"{region!r} is closed")
        if region.group.forked:
            raise PgStale(f"{region!r} is not there in a forked child")
        self.held = region, region.group.kept.get(region.handle)
        self.__array_interface__ = {
            "version": 3,
            "shape": (len(region),),
            "typestr": "|u1",
            "data": (region.address, False),
        }


def alloc_mr(
    engine: TransferEngine,
    group: Group,
    length: int,
    numa: int,
    flags: int,
) -> MemoryRegion:
    pointer, handle, error = ffi.new("void **"), ffi.new("pg_mr_t *"), new_error()
    group.leave_all()
    check(
        lib.pg_alloc_mr(group.c, unsigned(length, "length"), numa, flags, pointer, handle, error),
        error,
    )
    return MemoryRegion(engine, group, handle[0], pointer[0], length, owned=True)


def reg_mr(engine: TransferEngine, group: Group, memory: object) -> MemoryRegion:
    described = getattr(memory, "__cuda_array_interface__", None)
    gpu = described is not None
    if described is not None:
        _check_gpu(group, memory)
        pointer, length, kept = _described(memory, described)
    else:
        pointer, length, kept = _borrow(memory)
    handle, error = ffi.new("pg_mr_t *"), new_error()
    group.leave_all()
    check(lib.pg_reg_mr(group.c, pointer, length, handle, error), error)
    group.kept[handle[0]] = kept
    return MemoryRegion(engine, group, handle[0], pointer, length, owned=False, gpu=gpu)


def _check_gpu(group: Group, memory: object) -> None:
    """Raises PgUnsupported where the group does not reach GPUs."""
    limits = limits_of(group.c)
    if not limits.caps.gpu:
        raise PgUnsupported(
            f"{type(memory).__name__} is GPU memory, which {limits.transport} does not register "
            "here: NICs do (verbs, ofi) if CUDA was loaded before the engine was made"
        )


def _borrow(memory: Any) -> tuple[Any, int, object]:
    """Where `memory` is, its bytes, and what keeps it there."""
    try:
        view = memoryview(memory)
    except (BufferError, TypeError, ValueError):  # numpy gives no buffer of dates, for example
        described = getattr(memory, "__array_interface__", None)
        if described is None:
            raise TypeError(
                f"{type(memory).__name__} cannot be registered: it has no buffer and no "
                "__array_interface__"
            ) from None
        return _described(memory, described)
    _check(memory, view.nbytes, view.readonly, view.c_contiguous)
    kept = ffi.from_buffer(view, require_writable=True)
    return ffi.cast("void *", kept), view.nbytes, kept


def _described(memory: object, described: Any) -> tuple[Any, int, object]:
    """The same of what numpy's interface, or CUDA's, says of it."""
    if not isinstance(described, dict) or not {"data", "shape", "typestr"} <= described.keys():
        raise TypeError(f"{type(memory).__name__} does not say in its interface where it is")
    address, length, readonly, contiguous = _array_interface(described)
    _check(memory, length, readonly, contiguous)
    return ffi.cast("void *", address), length, memory


def _check(memory: object, length: int, readonly: bool, contiguous: bool) -> None:
    kind = type(memory).__name__
    if readonly:
        raise PgInvalid(f"{kind} cannot be registered: its memory is read-only")
    if not contiguous:
        raise PgInvalid(f"{kind} cannot be registered: its memory is not C-contiguous")
    if not length:
        raise PgInvalid(f"{kind} cannot be registered: it has 0 bytes")


def _array_interface(described: dict[str, Any]) -> tuple[int, int, bool, bool]:
    """Address, bytes, whether read-only, whether C-contiguous."""
    address, readonly = described["data"]
    item = int(re.findall(r"\d+", described["typestr"])[0])
    shape, strides = described["shape"], described.get("strides")
    packed = [item * math.prod(shape[i + 1 :]) for i in range(len(shape))]
    return address, item * math.prod(shape), readonly, strides is None or list(strides) == packed


# ---- Of peers


class RemoteRegion(Held):
    """A peer's region, as a destination. Made by TransferEngine.import_mr."""

    __slots__ = ("desc", "engine")

    def __init__(
        self, engine: TransferEngine | None, group: Group, handle: int, desc: bytes
    ) -> None:
        super().__init__(group, handle, _forget_remote)
        self.engine = engine
        self.desc = MrDesc(desc)

    def __repr__(self) -> str:
        return f"<RemoteRegion {self.handle:#x}>"

    def map(self, timeout: float | None = None) -> Any:
        """For C: where a peer's engine memory is mapped here (void *); connects and maps if needed.

        Waits for `timeout` seconds (None: the engine's op_timeout). Raises PgUnsupported when this
        transport or kind of memory is not mapped. Valid until this is closed.
        """
        pointer, error = ffi.new("void **"), new_error()
        limit = self.group.op_timeout if timeout is None else timeout

        def remote_ptr(ns: int) -> int:
            return int(lib.pg_remote_ptr(self.group.c, self.handle, ns, pointer, error))

        self.group.check_wait(self.group.wait(remote_ptr, limit), error)
        return pointer[0]

    def close(self) -> None:
        """Forget it. Idempotent. Raises PgBusy while operations write there."""
        if self.closed or self.group.forked:
            return
        error = new_error()
        rc = lib.pg_release_rmr(self.group.c, self.handle, error)
        if rc != -errno.ESTALE:
            check(rc, error)
        self._finalizer.detach()


def _forget_remote(ref: weakref.ref[Group], handle: int) -> None:
    group = ref()
    if group and group.raw:
        lib.pg_release_rmr(group.raw, handle, ffi.NULL)


def import_mr(engine: TransferEngine | None, group: Group, desc: bytes) -> RemoteRegion:
    handle, error = ffi.new("pg_rmr_t *"), new_error()
    check(lib.pg_import_mr(group.c, desc, len(desc), handle, error), error)
    return RemoteRegion(engine, group, handle[0], desc)
