"""Cluster diagnostics over one-sided transfers.

The engine is imported when one of its names is first used: `import pgctl` costs nothing.
"""

from __future__ import annotations

TYPE_CHECKING = False  # importing typing would be most of the cost
if TYPE_CHECKING:
    from typing import Any

    from pgctl.engine import ImmCounter, MemoryRegion, MrDesc, NetAddr, PgError, TransferEngine
    from pgctl.groups import group_configs

__all__ = [
    "ImmCounter",
    "MemoryRegion",
    "MrDesc",
    "NetAddr",
    "PgError",
    "TransferEngine",
    "__version__",
    "group_configs",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("pgctl")
    if name == "group_configs":
        from pgctl.groups import group_configs

        return group_configs
    if name in __all__:
        from pgctl import engine

        return getattr(engine, name)
    raise AttributeError(f"module 'pgctl' has no attribute {name!r}")
