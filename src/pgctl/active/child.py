"""Try one thing on one NIC: `python -m pgctl.active.child WHAT TRANSPORT DEVICE [GPU]`.

Prints a line for each step before it, then one of what came of it. See run.py for who reads them.
"""

from __future__ import annotations

import resource
import sys
from functools import partial
from typing import cast

from pgctl.active.attempts import ATTEMPTS, LateError, gpu_reach
from pgctl.active.cuda import CudaError, NoGpuMemoryError
from pgctl.active.run import BAD, GOOD, STEP, UNTRIED
from pgctl.engine import NicConfig, PgError
from pgctl.hardware.trials import What


def main(what: str, transport: str, device: str, gpu: str = "") -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a crash is told, and leaves nothing behind
    attempt = partial(gpu_reach, gpu) if gpu else ATTEMPTS[cast("What", what)]
    try:
        told = attempt(NicConfig(transport=transport, device=device), lambda step: _say(STEP, step))
    except NoGpuMemoryError as error:
        _say(UNTRIED, str(error))
    except (PgError, LateError, CudaError, OSError) as error:
        _say(BAD, str(error))
    else:
        _say(GOOD, told)


def _say(head: str, text: str) -> None:
    sys.stdout.write(f"{head}{' '.join(text.split())}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
