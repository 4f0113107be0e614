"""Memory that is registered, shown and kept alive."""

import array
import ctypes
import gc
import mmap
import os
import subprocess
import sys
import weakref
from types import SimpleNamespace

import fake_cuda
import numpy as np
import pytest

from pgctl.engine import (
    PgBusy,
    PgError,
    PgInvalid,
    PgShutdown,
    PgStale,
    PgUnsupported,
    TransferEngine,
)

IMM = 5


MEMORY = {
    "bytearray": lambda: bytearray(range(100)),
    "mmap": lambda: mmap.mmap(-1, 4096),
    "array": lambda: array.array("d", [0.0] * 10),
    "ctypes": ctypes.c_int * 5,
    "memoryview": lambda: memoryview(bytearray(100))[10:20],
    "numpy": lambda: np.zeros((3, 4), np.float32),
    "numpy part": lambda: np.zeros((8, 4))[2:4],
    "dates": lambda: np.zeros(4, "M8[s]"),  # numpy has no buffer for them
}


@pytest.mark.parametrize("kind", MEMORY)
def test_memory_of_the_caller_is_registered_where_it_is(loop, kind):
    engine, src, _ = loop
    memory = MEMORY[kind]()
    size = memory.nbytes if hasattr(memory, "nbytes") else len(memoryview(memory).cast("B"))
    src.numpy()[:size] = np.arange(1, size + 1)
    region = engine.reg_mr(memory)
    assert len(region) == size
    engine.submit_single_write(size, IMM, src, region.desc).wait(30)
    engine.counter(IMM).wait(1, 30)
    seen = memory.view("u1") if kind == "dates" else np.frombuffer(memory, np.uint8)
    assert seen.ravel().tobytes() == src.numpy()[:size].tobytes()


class ReadOnly:
    __array_interface__ = np.zeros(4).__array_interface__ | {"data": (4096, True)}


class Cuda:
    """Has an array on a GPU, or says so."""

    def __init__(self, array, **changed):
        self.array = array
        self.__cuda_array_interface__ = array.__array_interface__ | changed


class Silent:
    __array_interface__ = {"shape": (4,)}  # noqa: RUF012


@pytest.mark.parametrize(
    ("memory", "kind", "message"),
    [
        (b"abc", PgInvalid, "bytes cannot be registered: its memory is read-only"),
        (ReadOnly(), PgInvalid, "ReadOnly cannot be registered: its memory is read-only"),
        (np.zeros((4, 4))[:, 1], PgInvalid, "its memory is not C-contiguous"),
        (np.zeros((4, 4)).T, PgInvalid, "its memory is not C-contiguous"),
        (np.zeros((4, 4), "M8[s]").T, PgInvalid, "its memory is not C-contiguous"),
        (bytearray(), PgInvalid, "it has 0 bytes"),
        ("text", TypeError, "str cannot be registered: it has no buffer"),
        (100, TypeError, "int cannot be registered: it has no buffer"),
        (Silent(), TypeError, "Silent does not say in its interface where it is"),
        (Cuda(np.zeros(4)), PgUnsupported, "Cuda is GPU memory, which shm does not register here"),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, str) else None,
)
def test_memory_that_cannot_be_registered(engine, memory, kind, message):
    with pytest.raises(kind, match=message):
        engine.reg_mr(memory)


@pytest.mark.parametrize(
    ("memory", "message"),
    [
        (
            Cuda(np.zeros(4), data=(4096, True)),
            "Cuda cannot be registered: its memory is read-only",
        ),
        (Cuda(np.zeros((4, 4))[:, 1]), "its memory is not C-contiguous"),
        (Cuda(np.zeros(0)), "it has 0 bytes"),
    ],
)
@pytest.mark.usefixtures("reaches_gpus")
def test_gpu_memory_that_cannot_be_registered(engine, memory, message):
    with pytest.raises(PgInvalid, match=message):
        engine.reg_mr(memory)


@pytest.mark.usefixtures("reaches_gpus")
def test_gpu_memory_is_registered_where_it_is(loop):
    array = np.zeros((2, 8), np.uint32)
    engine, src, _ = loop
    region = engine.reg_mr(Cuda(array))
    assert (region.address, region.length, region.gpu) == (array.ctypes.data, 64, True)
    src.numpy()[:64] = 7
    engine.submit_single_write(64, IMM, src, region.desc).wait(30)
    engine.counter(IMM).wait(1, 30)
    assert set(array.view("u1").ravel()) == {7}
    with pytest.raises(PgUnsupported, match="is memory of a GPU, which numpy cannot look at"):
        region.numpy()


@pytest.fixture
def reaches_gpus(monkeypatch):
    """As an engine over NICs would; the memory is the host's, so that shm takes it."""
    caps = SimpleNamespace(caps=SimpleNamespace(gpu=True))
    monkeypatch.setattr("pgctl.engine.memory.limits_of", lambda _: caps)


def test_shm_knows_an_address_on_a_gpu(tmp_path):
    """Of memory that does not say so itself: the CUDA driver does, which is a fake."""
    code = f"""
import ctypes
from pgctl.active.cuda import gpu_memory
from pgctl.engine import PgUnsupported, TransferEngine

with gpu_memory({fake_cuda.GPU!r}, 4096, print) as memory, TransferEngine() as engine:
    there = (ctypes.c_uint8 * 4096).from_address(memory.address)
    try:
        engine.reg_mr(there)
    except PgUnsupported as error:
        print(error)
    engine.reg_mr(bytearray(4096)).close()
"""
    environ = os.environ | fake_cuda.environ(tmp_path)
    command = [sys.executable, "-P", "-c", code]
    ended = subprocess.run(command, env=environ, capture_output=True, text=True, check=True)
    assert "shm0: memory of a GPU, which only NICs can reach (verbs, ofi)" in ended.stdout


def test_registered_memory_cannot_be_resized_until_it_is_closed(engine):
    memory = bytearray(100)
    region = engine.reg_mr(memory)
    with pytest.raises(BufferError):
        memory.append(1)
    region.close()
    memory.append(1)
    region = engine.reg_mr(memory)
    del region
    gc.collect()
    memory.append(2)
    forgotten = engine.reg_mr(memory)
    engine.close()
    memory.append(3)
    assert forgotten.closed


@pytest.mark.parametrize(
    ("length", "error"), [(0, PgInvalid), (-1, PgInvalid), (1 << 62, PgError), (1 << 64, PgInvalid)]
)
def test_lengths_that_cannot_be_allocated(engine, length, error):
    with pytest.raises(error):
        engine.alloc_mr(length)


def test_a_region_is_seen_as_an_array_and_as_bytes(engine):
    region = engine.alloc_mr(64)
    assert len(region) == 64
    words = region.numpy(np.uint64)
    words[:] = range(8)
    assert np.asarray(region).view("u8").tolist() == list(range(8))
    assert np.array(region, "f4", copy=True).sum() == sum(range(8))
    region.buffer[0] = 255
    assert words[0] == 255
    if sys.version_info >= (3, 12):
        assert memoryview(region).tobytes() == region.numpy().tobytes()
    with pytest.raises(PgInvalid, match="no whole number of items of 8 bytes"):
        engine.alloc_mr(7).numpy(np.uint64)


def test_an_array_keeps_its_region_and_its_engine_alive():
    engine = TransferEngine()
    watch = weakref.ref(engine)
    array_ = engine.alloc_mr(4096).numpy()
    array_[:] = 3
    del engine
    gc.collect()
    assert watch()
    part = array_[100:200]
    del array_
    assert part.sum() == 300
    del part
    gc.collect()
    assert not watch()


def test_memory_that_is_shown_is_not_freed(engine):
    region = engine.alloc_mr(4096)
    view = region.numpy()
    with pytest.raises(PgBusy, match="numpy arrays or buffers still show it"):
        region.close()
    view[:] = 1
    del view
    region.close()
    region.close()
    assert region.closed
    with pytest.raises(PgStale, match="is closed"):
        region.numpy()


@pytest.mark.parametrize("registered", [False, True])
def test_an_array_outlives_close(registered):
    with TransferEngine() as engine:
        region = engine.reg_mr(bytearray(4096)) if registered else engine.alloc_mr(4096)
        view = region.numpy()
    view[:] = 9
    assert view.sum() == 9 * 4096
    assert engine.closed
    with pytest.raises(PgShutdown):
        engine.main_address()
    finalizer = engine._finalizer
    assert finalizer.alive != registered  # engine memory puts off the end, registered does not
    del view
    gc.collect()
    assert not finalizer.alive


def test_a_closed_region_of_the_callers_memory_leaves_its_array_alone(engine):
    region = engine.reg_mr(bytearray(100))
    view = region.numpy()
    region.close()
    view[:] = 1
    assert view.sum() == 100


def test_regions_are_context_managers(loop):
    engine, region, _ = loop
    with engine.alloc_mr(8) as mine, engine.import_mr(region.desc) as remote:
        engine.submit_single_write(8, None, mine, remote).wait(30)
    assert mine.closed
    with pytest.raises(PgStale):
        engine.submit_single_write(8, None, mine, remote)


def test_imported_descriptors_make_room_for_others():
    with TransferEngine(progress="inline", max_regions=4) as engine:
        engine.add_peer(engine.main_address())
        src = engine.alloc_mr(8)
        for _ in range(12):
            with engine.alloc_mr(8) as dst:
                engine.submit_single_write(8, None, src, dst.desc).wait(30)
