"""verify: the stored candidate, loaded afresh in every way, gives its golden embeddings and the vectors that were evaluated."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from effir.errors import BadInput
from effir.phases.job import Job
from effir.phases.stored import Stored, borrowed, collection
from effir.reading import read_array, read_json

if TYPE_CHECKING:
    from effir.retrieve.encode import Encoder

FIELDS = ("batch_tokens", "device", "dtype", "seed", "threads")
TEXTS = 16
STORED = {"float32": 1e-3, "bfloat16": 0.1}
"""Largest accepted distance of a unit vector from the stored one, by the type it was computed in. float32: float16's rounding is at most
2**-11. bfloat16: batches of another shape, or another machine, round differently; 0.04 was seen with one model on one machine, and another
model is several times as far."""


def run(job: Job) -> dict[str, Any]:
    """Write proof.json: what the gate wants to know about reloading."""
    from effir.export.loading import load_encoder
    from effir.export.verify import TOLERANCE, differences
    from effir.phases.compute import dtype_of, ready

    device = ready(job.spec)
    folder, manifest = job.folder("candidate"), job.manifest("candidate")
    with counted(job):
        loaders = differences(folder, device)
        allowed = dict.fromkeys(loaders, TOLERANCE)
        job.progress(1, 2, f"{len(loaders)} loaders, largest difference {max(loaders.values()):.1e}")
        encoder = load_encoder(folder, dtype_of(job.spec), device)
        for name, difference in evaluated(job, encoder).items():
            loaders[f"evaluated {name}"], allowed[f"evaluated {name}"] = difference, STORED[job.spec.dtype]
    passed = all(difference <= allowed[name] for name, difference in loaders.items())
    proof = {
        "candidate": manifest.digest,
        "files": {path: file.sha256 for path, file in manifest.files.items()},
        "loaders": loaders,
        "tolerance": max(allowed.values()),
        "tolerances": allowed,
        "passed": passed,
    }
    (job.out / "proof.json").write_text(json.dumps(proof, indent=1))
    worst = {kind: [value for name, value in loaders.items() if name.startswith("evaluated") == kind] for kind in (False, True)}
    return {"passed": passed, "loaders": max(worst[False]), "evaluated": max(worst[True])}


def evaluated(job: Job, encoder: "Encoder") -> dict[str, float]:
    """Collection → largest distance between stored vectors and those of the same texts encoded again, a few of each kind.

    Raises BadInput for vectors that are not the candidate's or not of the collections handed in.
    """
    given = {one.collection.name: one for one in (collection(job, uri) for uri in job.inputs.get("collections") or [])}
    uris: dict[str, dict[int, str]] = {}
    for uri in job.inputs.get("encodes") or []:
        arguments = job.manifest_at(uri).key["arguments"]
        if arguments["model"] != "candidate" or arguments["collection"] not in given:
            what = f"vectors of {arguments['model']} for {arguments['collection']}"
            raise BadInput(f"phase verify was given {what}: it wants the candidate's, of the collections that are handed in")
        uris.setdefault(arguments["collection"], {})[int(arguments["shard"])] = uri
    if missing := sorted(set(given) - set(uris)) or not uris:
        raise BadInput(f"phase verify needs the candidate's vectors of every collection in the input 'encodes'; missing: {missing}")
    return {name: max(_gaps(job, encoder, given[name], shards)) for name, shards in uris.items()}


def _gaps(job: Job, encoder: "Encoder", one: Stored, uris: dict[int, str]) -> Iterator[float]:
    """Distances of a few documents of at most TEXTS shards, evenly spread over the corpus, and of a few queries, which the first has."""
    numbers = sorted(uris)
    chosen = numbers[:: -(-len(numbers) // TEXTS)]
    for number in chosen:
        with borrowed(job, uris[number]) as folder:
            yield _gap(job, encoder, folder, "corpus", one.texts(number), -(-TEXTS // len(chosen)))
            if (folder / "queries.npy").is_file():
                yield _gap(job, encoder, folder, "queries", one.collection.queries, TEXTS)


def _gap(job: Job, encoder: "Encoder", folder: Path, what: str, texts: dict[str, str], count: int) -> float:
    """Largest distance over `count` rows, evenly spread, of FOLDER/WHAT.npy."""
    import numpy as np

    from effir.export.verify import largest_distance

    stored = read_array(folder / f"{what}.npy", mapped=True)
    ids = read_json(folder / f"{what}_ids.json")
    rows = np.unique(np.linspace(0, len(ids) - 1, min(count, len(ids))).astype(int))
    if unknown := [ids[row] for row in rows if ids[row] not in texts]:
        raise BadInput(
            f"vectors were handed in for {unknown[0]!r}, which the collection does not have: they were made from another version of it"
        )
    kind = "query" if what == "queries" else "document"
    again = encoder.encode([texts[ids[row]] for row in rows], kind, job.spec.batch_tokens)
    return largest_distance(again, np.asarray(stored[rows], dtype=np.float32))


@contextmanager
def counted(job: Job) -> Iterator[None]:
    """Add every call of a backbone within to the job's forward passes, whichever library makes it.

    Counted at the embedding, which runs once a pass: Sentence-Transformers calls `forward` directly, where no hook of the model's sees it.
    """
    from torch import nn
    from torch.nn.modules.module import register_module_forward_pre_hook

    def count(module: Any, _: Any) -> None:
        job.forward_passes += isinstance(module, nn.Embedding)

    handle = register_module_forward_pre_hook(count)
    try:
        yield
    finally:
        handle.remove()
