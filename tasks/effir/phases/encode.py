"""One shard of a collection's corpus as vectors; shard 0 carries the queries too."""

import json
from typing import Any

from effir.errors import EffirError
from effir.phases.job import Job

FIELDS = (
    "batch_tokens", "attention", "pooling", "query_template", "document_template", "max_query_tokens", "max_document_tokens", "dtype",
)  # fmt: skip


def run(job: Job) -> dict[str, Any]:
    """Encode in length-sorted token-budget batches; write float16 vectors and ids in corpus order."""
    import numpy as np

    from effir.phases.compute import ready
    from effir.retrieve.files import document_text, read_corpus, read_queries, shard_file

    device = ready(job.spec)
    name, shard = job.arguments["collection"], job.arguments["shard"]
    documents = read_corpus(job.file("collection", shard_file(shard)))
    queries = read_queries(job.file("collection", "queries.jsonl")) if shard == 0 else {}
    work = [("corpus", "document", {key: document_text(one) for key, one in documents.items()}), ("queries", "query", queries)]
    encode = encoding(job, device)
    for label, kind, texts in work:
        if texts:
            vectors = finite(job, encode(list(texts.values()), kind), name)
            np.save(job.out / f"{label}.npy", vectors.astype(np.float16), allow_pickle=False)
            (job.out / f"{label}_ids.json").write_text(json.dumps(list(texts)))
    return {"documents": len(documents), "queries": len(queries)}


def encoding(job: Job, device: str, encoder: Any = None) -> Any:
    """What turns (texts, query or document) into unit vectors, float32, (n, d): the model that the arguments name, or `encoder`."""
    return _minilm(job, device) if job.arguments["model"] == "minilm" else _own(job, encoder or own_encoder(job, device))


def finite(job: Job, vectors: Any, collection: str) -> Any:
    """The same vectors. Raises EffirError if one is not finite."""
    import numpy as np

    if not np.isfinite(vectors).all():
        model = job.arguments["model"]
        raise EffirError(f"{model} gives vectors that are not finite on {collection}: it is broken, or {job.spec.dtype} too narrow")
    return vectors


def own_encoder(job: Job, device: str) -> Any:
    """The input `model` as an Encoder; the untrained base is given the spec's settings, any other model has its own."""
    from effir.export import loading
    from effir.phases.compute import backbone, dtype_of
    from effir.retrieve.encode import Encoder
    from effir.retrieve.prepack import prepack
    from effir.retrieve.settings import Settings

    folder = job.folder("model")
    if job.arguments["model"] != "base":
        return loading.load_encoder(folder, dtype_of(job.spec), device)
    model = prepack(backbone(job.spec, folder).to(device))
    return Encoder(model, loading.load_tokenizer(folder), Settings.from_spec(job.spec), device)


def _own(job: Job, encoder: Any) -> Any:
    def encode(texts: list[str], kind: str) -> Any:
        vectors = encoder.encode(texts, kind, job.spec.batch_tokens, lambda done, of: job.progress(done, of, f"{kind} tokens"))
        job.forward_passes = encoder.forward_passes
        return vectors

    return encode


def _minilm(job: Job, device: str) -> Any:
    from effir.retrieve import minilm

    model = minilm.load(device, job.spec.dtype)

    def encode(texts: list[str], kind: str) -> Any:
        job.forward_passes += -(-len(texts) // 32)
        vectors = model.encode(texts, batch_size=32, normalize_embeddings=True, show_progress_bar=False, convert_to_tensor=True)
        return vectors.float().cpu().numpy()

    return encode
