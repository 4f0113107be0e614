"""What says of itself that it is on a GPU, over RDMA devices; the CUDA driver is a fake."""

import os
import subprocess
import sys

import fake_cuda
import pytest

pytestmark = pytest.mark.rdma

PATIENCE_S = 60
CODE = f"""
from pgctl.active.cuda import gpu_memory
from pgctl.engine import GroupConfig, NicConfig, TransferEngine

class Tensor:
    pass

nic = NicConfig(transport="verbs", device="rxe1")
with gpu_memory({fake_cuda.GPU!r}, 8192, print) as memory:
    with TransferEngine([GroupConfig(nics=[nic], progress="inline")]) as engine:
        engine.add_peer(engine.main_address())
        tensor = Tensor()
        tensor.__cuda_array_interface__ = {{
            "version": 3, "shape": (1024,), "typestr": "<f8", "data": (memory.address, False)
        }}
        region = engine.reg_mr(tensor)
        src = engine.alloc_mr(8192)
        src.numpy()[:] = 7
        engine.submit_single_write(8192, 1, src, region.desc).wait(30)
        engine.counter(1).wait(1, 30)
        print(engine.limits().caps.gpu, region.gpu, set(memory.copy()))
"""


def test_an_array_on_a_gpu_is_registered(tmp_path):
    environ = os.environ | fake_cuda.environ(tmp_path)
    command = [sys.executable, "-P", "-c", CODE]
    ended = subprocess.run(
        command, env=environ, capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )
    assert ended.returncode == 0, ended.stderr
    assert "True True {7}" in ended.stdout.splitlines()
    assert "cuMemGetHandleForAddressRange" in ended.stderr  # it was asked for a DMA-BUF
