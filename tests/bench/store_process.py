"""One way into S3 and back in a process of its own: python -m tests.bench.store_process FOLDER ours|boto3

Prints {up, down: seconds, bytes: the most memory of its own beyond what it started with}.
"""

import json
import sys
import tempfile
import time
from pathlib import Path

from effir.manifest import MANIFEST, Manifest
from effir.services.s3 import split
from effir.services.store import Store

from .watching import watched


def main() -> None:
    """The command."""
    folder, kind = Path(sys.argv[1]), sys.argv[2]
    store, digest = Store(), "0" * 64
    store.exists(store.root + "/nothing")
    with tempfile.TemporaryDirectory(dir=folder.parent) as made, watched() as most:
        up, down = (ours if kind == "ours" else boto3)(store, folder, Path(made), digest)
    print(json.dumps({"up": up, "down": down, "bytes": most()}))


def ours(store: Store, folder: Path, target: Path, digest: str) -> tuple[float, float]:
    """As a phase publishes an artifact, and the next one fetches it."""
    about = Manifest(
        phase="bench", digest=digest, key={}, files={}, numbers={}, seconds=0.0, forward_passes=0, created="2026-01-01T00:00:00+00:00"
    )
    began = time.perf_counter()
    manifest = store.publish(about, folder)
    middle = time.perf_counter()
    prefix = store.artifact("bench", digest)
    store.download(prefix, store.manifest(f"{prefix}/{MANIFEST}").files, target)
    ended = time.perf_counter()
    store.delete([f"{prefix}/{name}" for name in (*manifest.files, MANIFEST)])
    return middle - began, ended - middle


def boto3(store: Store, folder: Path, target: Path, digest: str) -> tuple[float, float]:
    """upload_file and download_file, one file after the other, with boto3's own threads."""
    bucket, key = split(store.artifact("raw", digest))
    names = [path.name for path in sorted(folder.iterdir())]
    began = time.perf_counter()
    for name in names:
        store.client.upload_file(str(folder / name), bucket, f"{key}/{name}")
    middle = time.perf_counter()
    for name in names:
        store.client.download_file(bucket, f"{key}/{name}", str(target / name))
    ended = time.perf_counter()
    store.delete([f"s3://{bucket}/{key}/{name}" for name in names])
    return middle - began, ended - middle


if __name__ == "__main__":
    main()
