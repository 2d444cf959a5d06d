"""Phases that compute wait for a place in the pool `compute`, so that GPUs are never promised twice.

On Kubernetes a phase takes as many of its slots as it has GPUs on all of its machines, one where it has none, and the pool has as many
as there are GPUs. Elsewhere a phase takes one slot, and so many phases run at a time as the pool has slots.
"""

import os
from typing import Any

import settings
from launch import mapped_phase, phase

POOL = "compute"


def slots(name: str) -> int:
    """What a phase takes of the pool."""
    resources = settings.load().of(name).resources
    return max(1, resources.gpus * resources.nodes) if os.environ.get("EFFIR_RUNNER") == "kubernetes" else 1


def computing(name: str, **more: Any) -> Any:
    """The task of a phase that computes; its output is the phase's result."""
    return phase(name, pool=POOL, pool_slots=slots(name), **more)


def mapped_computing(name: str, calls: Any, **more: Any) -> Any:
    """The tasks of a phase that computes, one for each call; their output is a list of results."""
    return mapped_phase(name, calls, pool=POOL, pool_slots=slots(name), **more)


def shards_at_once() -> int:
    """How many shards are encoded at a time, if the pool has room: EFFIR_SHARDS_AT_ONCE. Raises ValueError where that is no number."""
    told = os.environ.get("EFFIR_SHARDS_AT_ONCE") or "16"
    if not told.isdigit() or int(told) < 1:
        raise ValueError(f"EFFIR_SHARDS_AT_ONCE is {told!r}: it must be a whole number above 0")
    return int(told)
