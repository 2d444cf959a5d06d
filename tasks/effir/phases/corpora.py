"""corpora: what is to be searched, stored in shards with a digest each, and the champion that is to encode it."""

from typing import Any

from effir.errors import BadInput
from effir.phases.job import Job
from effir.services import promotions

FRESH = True
FIELDS = ("name", "collections", "shard_documents")


def run(job: Job) -> dict[str, Any]:
    """Publishes a part for each collection; output: model {name, version, manifest, digest}, collections {name: {…, shards}}, spec.

    Raises BadInput where the model has no champion yet.
    """
    from effir.corpora import corpus
    from effir.retrieve.collections import save_folder

    spec, size = job.spec, job.spec.shard_documents
    champion = promotions.champion(job.store, spec.name)
    if champion is None:
        raise BadInput(f"{spec.name} has no champion yet, so nothing can encode {spec.collections}: promote one first")
    told: dict[str, dict[str, int]] = {}
    for name, source in zip(spec.collection_names(), spec.collection_sources(), strict=True):
        if source.startswith("s3://"):
            source = str(job.store.download_prefix(source, job.scratch / "fetched" / name))
        found = corpus(source, name, job.scratch)
        job.publish_part(name, "collection", save_folder(found, job.scratch / "parts" / name, shard_documents=size))
        told[name] = {"documents": len(found.corpus), "shards": -(-len(found.corpus) // size)}
        job.progress(len(told), len(spec.collection_names()), f"{name}: {told[name]['documents']} documents")
    model = {"name": spec.name} | {one: champion[one] for one in ("version", "manifest", "digest")}
    job.say(f"version {model['version']} of {spec.name} is the champion, and encodes them")
    job.output.update(model=model, collections=told, spec=spec.model_dump())
    return {"documents": sum(one["documents"] for one in told.values())}
