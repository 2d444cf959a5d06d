"""Storing: a model of 4 GiB in two files into the embedded S3 and back, beside boto3's own multipart transfers."""

import os
from pathlib import Path
from typing import Any

from .material import Material
from .pairs import Pairs, apart, by_turns, ratios

GIB, FILES = 1 << 30, 2
FILE_BYTES = 2 * GIB
MOST_BYTES = 4 * 2 * (8 << 20)
"""Four files at once, each in parts of 8 MiB by as many threads: what may be in memory, and twice that for what waits."""


def storing(material: Material, rounds: int) -> Pairs:
    """Upload with digests and a manifest, download with every digest checked; in a process of its own, whose memory is watched."""
    assert material.stack.spec
    folder = weights(material.folder / "weights")
    given = ("tests.bench.store_process", str(folder))
    ours, peer = by_turns(lambda: apart(*given, "ours"), lambda: apart(*given, "boto3"), rounds)
    most, theirs = (max(one["bytes"] for one in several) for several in (ours, peer))
    told: dict[str, Any] = {"megabytes": most / 1e6, "megabytes_boto3": theirs / 1e6}
    told |= {part: min(one[part] for one in ours) for part in ("up", "down")}
    unmet = "" if most <= MOST_BYTES + theirs else f"{most / 1e6:.0f} MB in memory"
    mine, others = ([one["up"] + one["down"] for one in several] for several in (ours, peer))
    return Pairs(ratios(mine, others), None, told | {"seconds": min(mine)}, unmet)


def weights(folder: Path) -> Path:
    """FILES files of FILE_BYTES, the same random 64 MiB again and again; made once."""
    folder.mkdir(parents=True, exist_ok=True)
    block = os.urandom(64 << 20)
    for number in range(FILES):
        path = folder / f"model-{number:05d}.safetensors"
        if not path.exists() or path.stat().st_size != FILE_BYTES:
            with path.open("wb") as file:
                for _ in range(FILE_BYTES // len(block)):
                    file.write(block)
    return folder
