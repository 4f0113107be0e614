"""Tests that break things: they run in a lab alone."""

import os

import pytest

LAYOUTS = {"four": "four", "rxm": "four", "nodes": "nodes"}
"""By folder, of the lab."""


@pytest.fixture(autouse=True)
def _layout(request):
    layout = LAYOUTS.get(request.path.parent.name)
    if layout and os.environ.get("PGCTL_LAB") != layout:
        pytest.skip(f"layout {layout} of an RDMA lab: see docs/verbs.md")
