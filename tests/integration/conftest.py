"""What tests of engines can ask for."""

import pytest
from meeting import Meeting


@pytest.fixture
def meet(world, transport):
    """Makes two parties that know each other; see support/meeting.py."""
    return lambda *args, **kwargs: Meeting(world, transport, *args, **kwargs)


@pytest.fixture(params=["one process", "two processes"])
def place(request):
    return request.param


@pytest.fixture(params=["inline", "worker"])
def mode(request):
    return request.param


@pytest.fixture(params=["default path", "bounce buffer"])
def path(request, monkeypatch):
    """How memory that is not mapped is reached; read by every engine, obeyed by shm."""
    if request.param == "bounce buffer":
        monkeypatch.setenv("PGCTL_SHM_CMA", "0")
    return request.param
