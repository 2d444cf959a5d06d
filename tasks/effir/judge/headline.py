"""A run's outcome in one sentence, as the report, Airflow and MLflow open with it."""

from collections.abc import Mapping
from typing import Any


def headline(summary: Mapping[str, Any]) -> str:
    """What became of the candidate, and what was gained and lost; summary: as the phase report makes it."""
    return f"{outcome(summary)}: {gains(summary)}"


def outcome(summary: Mapping[str, Any]) -> str:
    """`Promoted, effir-demo version 3`."""
    model = summary["model"]
    version = f" version {model['version']}" if model.get("version") else ""
    return f"{summary['verdict'].capitalize()}, {model['name']}{version}"


def gains(summary: Mapping[str, Any]) -> str:
    """Size, speed and quality of the candidate beside the full-size reference, in words."""
    params, speed = summary["params"], summary["speedup"]
    share = 1 - params["candidate_non_embedding"] / params["reference_non_embedding"]
    size = f"{abs(share):.0%} {'fewer' if share >= 0 else 'more'} parameters outside the embeddings"
    told = f"{size}, queries {speed['query']:.2f}× and documents {speed['document']:.2f}× as fast as the full-size reference"
    found = summary.get("mean")
    if not found:
        return told
    low, high = found["interval"]
    names = list(summary["quality"])
    on = f"on the mean of {len(names)} collections" if len(names) > 1 else f"on {names[0]}"
    return f"{told}, nDCG@10 {100 * found['difference']:+.1f} points {on} (95% interval {100 * low:+.1f} to {100 * high:+.1f})"
