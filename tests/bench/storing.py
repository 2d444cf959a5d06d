"""Storing: a model of 4 GiB in two files into the embedded S3 and back, beside boto3's own multipart transfers."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from .material import Material
from .pairs import Pairs, ratios

GIB, FILES = 1 << 30, 2
FILE_BYTES = 2 * GIB
MOST_BYTES = 4 * 2 * (8 << 20)
"""Four files at once, each in parts of 8 MiB by as many threads: what may be in memory, and twice that for what waits."""


def storing(material: Material, rounds: int) -> Pairs:
    """Upload with digests and a manifest, find, download with every digest checked; in a process of its own, whose memory is watched."""
    assert material.stack.spec
    folder = weights(material.folder / "weights")
    found: dict[str, list[dict[str, Any]]] = {"ours": [], "boto3": []}
    for number in range(rounds):
        for name in ("ours", "boto3") if number % 2 else ("boto3", "ours"):
            command = [sys.executable, "-m", "tests.bench.store_process", name, str(folder), str(number)]
            found[name].append(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
    most = max(one["bytes"] for one in found["ours"])
    theirs = max(one["bytes"] for one in found["boto3"])
    told: dict[str, Any] = {"megabytes": most / 1e6, "megabytes_boto3": theirs / 1e6}
    told |= {part: min(one[part] for one in found["ours"]) for part in ("up", "down")}
    unmet = "" if most <= MOST_BYTES + theirs else f"{most / 1e6:.0f} MB in memory"
    seconds = {name: [one["up"] + one["down"] for one in several] for name, several in found.items()}
    return Pairs(ratios(seconds["ours"], seconds["boto3"]), None, told | {"seconds": min(seconds["ours"])}, unmet)


def weights(folder: Path) -> Path:
    """FILES files of FILE_BYTES random bytes; made once."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(FILES):
        path = folder / f"model-{number:05d}.safetensors"
        if not path.exists() or path.stat().st_size != FILE_BYTES:
            with path.open("wb") as file:
                for _ in range(FILE_BYTES // (64 << 20)):
                    file.write(os.urandom(64 << 20))
    return folder
