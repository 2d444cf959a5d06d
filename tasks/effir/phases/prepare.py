"""Everything a run reads, resolved, checked and stored with digests: base model, training data, calibration text, collections."""

from pathlib import Path
from typing import Any

from effir.errors import BadInput
from effir.phases.job import Job
from effir.spec import RunSpec

FIELDS = (
    "base_model", "base_revision", "trust_remote_code", "base_code", "dtype", "training_data", "training_examples", "hard_negatives",
    "collections", "test_queries", "test_documents", "calibration_text", "shard_documents", "seed",
)  # fmt: skip


def fingerprint(spec: RunSpec) -> dict[str, Any]:
    """State of the local files, packages, S3 objects and registered models that the spec names."""
    from effir import sources
    from effir.services import registry
    from effir.services.store import Store

    named = [spec.base_model, *spec.training_sources(), spec.calibration_text, *spec.collection_sources()]
    outside = sources.fingerprint(named)
    for source in named:
        if source.startswith("s3://"):
            outside[source] = Store().etags(source)
        elif source.startswith("models:/"):
            outside[source] = registry.find_model(source)
    return outside


def run(job: Job) -> dict[str, Any]:
    """Publishes the parts base, training, calibration and one per collection, all of them only once all are sound."""
    spec = job.spec
    folders: dict[str, Path] = {}
    collections: dict[str, dict[str, Any]] = {}
    tests: dict[str, list[str]] = {}
    for name, source in zip(spec.collection_names(), spec.collection_sources(), strict=True):
        folders[name], collections[name], tests[name] = _collection(job, name, source)
        job.progress(len(folders), len(spec.collection_names()) + 3, name)
    folders["training"], queries = _training(job, tests)
    folders["calibration"], characters = _calibration(job)
    job.progress(len(folders), len(folders) + 1, "data ready")
    folders["base"], parameters = _base(job)
    for name, folder in folders.items():
        job.publish_part(name, name if name in {"base", "training", "calibration"} else "collection", folder)
    job.output["collections"] = collections
    return {
        "parameters": parameters,
        "training_queries": queries,
        "test_queries": sum(one["queries"] for one in collections.values()),
        "documents": sum(one["documents"] for one in collections.values()),
        "calibration_characters": characters,
    }


def _collection(job: Job, name: str, source: str) -> tuple[Path, dict[str, Any], list[str]]:
    from effir.retrieve.collections import sample, save_folder
    from effir.sources import collection

    spec = job.spec
    if name in {"base", "training", "calibration"}:
        raise BadInput(f"a collection cannot be called {name}, which names another part of a run; rename its folder")
    found = sample(collection(_local(job, source), name, job.scratch), spec.test_queries, spec.test_documents, spec.seed)
    if found.empty_documents:
        job.warn(f"{name}: {found.empty_documents} documents are empty; they are kept and embedded as empty text")
    about = {
        "documents": len(found.corpus),
        "queries": len(found.queries),
        "shards": -(-len(found.corpus) // spec.shard_documents),
        "pooled": found.pooled,
        "empty_documents": found.empty_documents,
    }
    job.say(f"{name}: {about['documents']} documents, {about['queries']} queries" + (" (pooled)" if found.pooled else ""))
    folder = save_folder(found, job.scratch / "parts" / name, shard_documents=spec.shard_documents)
    return folder, about, list(found.queries.values())


def _training(job: Job, tests: dict[str, list[str]]) -> tuple[Path, int]:
    from effir.sources import training_set
    from effir.train.examples import join, mine, sample, save

    spec = job.spec
    found = join([training_set(_local(job, source), job.scratch) for source in spec.training_sources()])
    training = sample(found, spec.training_examples, spec.seed)
    if spec.teacher == "data" and any(example.positive_scores is None for example in training.examples):
        raise BadInput(
            f"teacher is data, but rows of {spec.training_data} have no scores: give pos_scores and neg_scores or another teacher"
        )
    scarce = next((one for one in training.examples if len(one.negatives) < spec.hard_negatives), None)
    if spec.teacher == "data" and scarce:
        raise BadInput(
            f"teacher is data, but training query {scarce.query_id} has {len(scarce.negatives)} scored negatives and hard_negatives is "
            f"{spec.hard_negatives}: lower it, give more of them with scores, or name another teacher"
        )
    training = mine(training, spec.hard_negatives, spec.seed)
    asked = {example.query.casefold().strip() for example in training.examples}
    for name, queries in tests.items():
        if both := sum(query.casefold().strip() in asked for query in queries):
            job.warn(f"{both} of the {len(queries)} test queries of {name} are also training queries")
    job.say(f"training: {len(training.examples)} queries of {training.name}")
    return save(training, job.scratch / "parts" / "training"), len(training.examples)


def _calibration(job: Job) -> tuple[Path, int]:
    from effir.retrieve.files import write_lines
    from effir.sources import calibration_texts

    texts = calibration_texts(_local(job, job.spec.calibration_text))
    folder = job.scratch / "parts" / "calibration"
    folder.mkdir(parents=True)
    write_lines(folder / "text.jsonl", ({"text": text} for text in texts))
    return folder, sum(map(len, texts))


def _base(job: Job) -> tuple[Path, int]:
    """Also checks the variant against the number of layers, before anything is computed with it."""
    from effir.bases import write_base
    from effir.compress import variants

    spec = job.spec
    folder = job.scratch / "parts" / "base"
    base = write_base(
        _local(job, spec.base_model),
        folder,
        dtype=spec.dtype,
        revision=spec.base_revision,
        trust_remote_code=spec.trust_remote_code,
        code=spec.base_code,
    )
    for _, count, _ in variants.parse(spec.variant):
        variants.check(spec.variant, count, base.layers)
    job.say(f"base: {base.kind}, {base.layers} layers, {base.parameters:,} parameters")
    return folder, base.parameters


def _local(job: Job, source: str) -> str:
    """The same source as something on this machine: s3:// and models:/ are downloaded."""
    target = job.scratch / "fetched" / source.replace("/", "_").replace(":", "_")
    if source.startswith("s3://"):
        return str(target if target.exists() else job.store.download_prefix(source, target))
    if source.startswith("models:/"):
        from effir.services import registry

        return str(registry.download_model(source, target))
    return source
