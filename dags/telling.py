"""What a phase's task says in its log: first what it is about to do, last what it did."""

from collections.abc import Iterator
from typing import Any


def opening(sentence: str, call: dict[str, Any], command: list[str]) -> Iterator[str]:
    """The lines before a phase runs; sentence: what the phase is for, call: what it is told."""
    yield f"About to do: {sentence}"
    for name, value in (call.get("arguments", {}) | call.get("caption", {})).items():
        if isinstance(value, str | int | float):
            yield f"  {name}: {value}"
    for name, value in call.get("inputs", {}).items():
        given = [value] if isinstance(value, str) else list(value)
        yield f"  from {name}: {given[0] if given else 'nothing'}{f' and {len(given) - 1} more' if len(given) > 1 else ''}"
    yield f"  by: effir {' '.join(command)}"


def closing(result: dict[str, Any]) -> Iterator[str]:
    """The lines after a phase has made its result."""
    how = "found what was done before" if result["cached"] else "done"
    yield f"{result['phase']}: {how}, in {result['seconds']:.1f} s, with {result['forward_passes']:,} forward passes"
    if told := result["output"].get("headline"):
        yield f"  {told}"
    for name, value in result["numbers"].items():
        yield f"  {name}: {value:.6g}" if isinstance(value, float) else f"  {name}: {value}"
    yield f"  artifact: {result['manifest'].rpartition('/')[0]}"
