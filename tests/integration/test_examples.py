"""The examples do what their first lines say, and stay short."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
PRINTED = {
    "echo.py": "hello -> HELLO\ngoodbye -> GOODBYE\n",
    "paged_counter.py": "64 pages, each in its place: True\n",
    "scatter_barrier.py": (
        "rank 0 has 10 20 30\nrank 1 has 1 21 31\nrank 2 has 2 12 32\nrank 3 has 3 13 23\n"
    ),
    "asyncio_server.py": 3 * "a client has 42 in each byte\n",
}


def test_every_example_is_run():
    assert sorted(path.name for path in EXAMPLES.glob("*.py")) == sorted(PRINTED)


@pytest.mark.parametrize("name", PRINTED)
def test_an_example_prints_what_it_should(name):
    text = (EXAMPLES / name).read_text()
    assert len(text.splitlines()) <= 40
    assert re.search(rf"Run: python examples/{name}\b", text)
    done = subprocess.run(
        [sys.executable, EXAMPLES / name], timeout=100, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, PRINTED[name], "")
