"""reindex: the vectors of a corpus as a FAISS index, and the one object that says that it counts."""

from collections.abc import Iterator
from typing import Any

from effir.errors import BadInput
from effir.phases.job import Job
from effir.phases.stored import borrowed
from effir.reading import read_array, read_json

FRESH = True
FIELDS = ("name",)


def run(job: Job) -> dict[str, Any]:
    """Publishes the part index, then points at it; output: the pointer. Arguments: collection, version (of the model).

    Raises BadInput for vectors of another model or corpus, or where a shard is missing.
    """
    from effir.retrieve import index
    from effir.services import indexes

    name, model, corpus = job.arguments["collection"], job.manifest("model"), job.manifest("collection")
    about = {"name": job.spec.name, "version": str(job.arguments["version"]), "digest": model.digest}
    shards = _shards(job, name, model.digest, corpus.digest)
    folder = index.write(_vectors(job, shards), job.scratch / "index", collection=name, corpus=corpus.digest, model=about)
    uri = job.publish_part("index", indexes.KIND, folder)
    documents = read_json(folder / index.ABOUT)["documents"]
    told = about | {"manifest": job.inputs["model"]}
    job.output.update(indexes.point(job.store, told, name, uri, job.inputs["collection"], documents, job.run.get("id")))
    job.say(
        f"{name}: {documents} documents by version {about['version']} of {about['name']}, {indexes.place(job.store, job.spec.name, name)}"
    )
    return {"documents": documents, "shards": len(shards)}


def _shards(job: Job, name: str, model: str, corpus: str) -> list[str]:
    """Manifests of the vectors, by shard."""
    found: dict[int, str] = {}
    for uri in job.inputs.get("encodes") or []:
        key = job.manifest_at(uri).key
        if key["arguments"]["collection"] != name or (key["inputs"]["model"], key["inputs"]["collection"]) != (model, corpus):
            raise BadInput(
                f"{uri} holds vectors of another model or corpus than phase reindex was given for {name}: run effir_reindex again"
            )
        found[key["arguments"]["shard"]] = uri
    held = sum(path.startswith("corpus/") for path in job.manifest("collection").files)
    if sorted(found) != list(range(held)):
        raise BadInput(f"phase reindex was given vectors of {len(found)} of the {held} shards of {name}: run effir_reindex again")
    return [found[number] for number in range(held)]


def _vectors(job: Job, uris: list[str]) -> Iterator[tuple[Any, list[str]]]:
    for number, uri in enumerate(uris):
        with borrowed(job, uri, "corpus.npy", "corpus_ids.json") as folder:
            yield read_array(folder / "corpus.npy"), read_json(folder / "corpus_ids.json")
        job.progress(number + 1, len(uris), "shards")
