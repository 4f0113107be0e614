"""Tests in a folder named after a layout of the lab break things: they run in that lab alone."""

import os

import pytest


@pytest.fixture(autouse=True)
def _layout(request):
    folder = request.path.parent.name
    if folder in {"four", "nodes"} and os.environ.get("PGCTL_LAB") != folder:
        pytest.skip(f"layout {folder} of an RDMA lab: see docs/verbs.md")
