"""Two runs that several tests look at: one whose candidate is refused, and the same one promoted."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from . import runs, tiny


@pytest.fixture(scope="session")
def overrides(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a tiny run is made from, its corpus in four shards; the same for every run."""
    return tiny.overrides(tmp_path_factory.mktemp("tiny"), shard_documents=13)


@pytest.fixture(scope="session")
def first(stack_home: Path, overrides: dict[str, Any]) -> dict[str, Any]:
    """The summary of a first run, whose candidate is larger than allowed."""
    return runs.outcome(stack_home, 3, overrides | {"max_parameters": 1000})


@pytest.fixture(scope="session")
def second(first: dict[str, Any], stack_home: Path, overrides: dict[str, Any]) -> dict[str, Any]:
    """The summary of the same run without that limit, after a person was asked and said yes."""
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(runs.approve, stack_home)
        summary = runs.outcome(stack_home, 0, overrides | {"approval": True, "approval_hours": 1})
    assert asked.result()["body"].startswith("# Promoted")
    return summary
