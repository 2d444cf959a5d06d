from pathlib import Path
from typing import Any

import pytest

from . import soak


def rows(count: int, **changes: Any) -> list[dict[str, Any]]:
    """So many runs after which the same is held; changes: name → what it is after run N, of N."""
    plain = {"processes": 12, "files": 300, "ports": 14, "temporary": 0}
    return [
        {"run": number, "seconds": 60, "memory": {"s3": changes.get("memory", lambda _: 100e6)(number)}}
        | {name: changes.get(name, lambda _, value=value: value)(number) for name, value in plain.items()}
        for number in range(1, count + 1)
    ]


def test_what_stays_is_no_growth() -> None:
    assert soak.growth(rows(25)) == []
    assert soak.growth(rows(25, files=lambda number: 300 + number % 3, processes=lambda number: min(number, 5))) == []
    assert soak.growth(rows(25, memory=lambda number: 100e6 * (1 + 0.04 * number / 25 + (number == 25)))) == [], "one peak is no growth"
    assert soak.growth(rows(4, files=lambda number: number)) == [], "too few to tell"


@pytest.mark.parametrize("name", soak.COUNTS)
def test_a_count_that_grows(name: str) -> None:
    (said,) = soak.growth(rows(25, **{name: lambda number: 20 + number}))
    assert said == f"{name}: 27 after run 5, 43 after run 25"


def test_memory_that_grows() -> None:
    (said,) = soak.growth(rows(25, memory=lambda number: 100e6 * (1 + number / 100)))
    assert said == "memory of s3: 101 MiB after run 5, 118 MiB after run 25"


def test_what_the_stack_holds(stack: Any, tmp_path: Path) -> None:
    (tmp_path / "left").write_text("")
    found = soak.held(tmp_path)
    assert found["processes"] >= 7 and found["files"] > 50 and found["ports"] >= 12 and found["temporary"] == 1
    assert set(found["memory"]) >= {"s3", "mlflow", "scheduler"} and all(found["memory"].values())
