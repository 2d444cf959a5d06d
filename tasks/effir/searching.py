"""`effir search`: a first look at what a model finds. By the index of effir_reindex where there is one, otherwise the corpus is encoded."""

import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from effir.corpora import corpus
from effir.export.loading import load_encoder
from effir.manifest import MANIFEST
from effir.names import is_name
from effir.retrieve.encode import Encoder
from effir.retrieve.files import Document, document_text, read_corpus, shard_file
from effir.retrieve.index import Hit, Index, build, read
from effir.services import indexes, registry, scratch
from effir.services.store import Store
from effir.spec import collection_name

LONGEST = 160


def search(source: str, query: str, model: str, top: int, say: Callable[[str], None]) -> dict[str, Any]:
    """{query, collection, model, index, hits: [{rank, score, id, title, text}]}, best first; index: its digest, null without one.

    source: a collection as the spec names it; model: a folder or models:/ address. Raises BadInput for what does not exist.
    """
    name = collection_name(source)
    with scratch.folder("search") as own:
        pointer = None
        if by := _indexing(model, name):
            pointer, folder = indexes.fetch(Store(), by, name, own)
            version = pointer["model"]["version"]
            say(f"the index of {pointer['at']} answers: {pointer['documents']} documents by version {version}")
            model = f"models:/{pointer['model']['name']}/{version}"
        encoder = load_encoder(registry.local_folder(model, own / "model"))
        index, of = (read(folder), _stored_text(pointer["corpus"], own)) if pointer else _encoded(source, name, encoder, own, say)
        (hits,) = index.search(encoder.encode([query], "query"), top)
        rows = [{"rank": rank, "score": hit.score, "id": hit.id} | of(hit)._asdict() for rank, hit in enumerate(hits, 1)]
    return {"query": query, "collection": name, "model": model, "index": pointer and pointer["digest"], "hits": rows}


def table(found: dict[str, Any]) -> Any:
    """The hits as a person reads them."""
    from rich.markup import escape
    from rich.table import Table

    shown = Table(title=escape(f"{found['query']} · {found['collection']} · {found['model']}"), title_justify="left", box=None)
    for column in ("", "score", "document", "text"):
        shown.add_column(column, justify="right" if column in ("", "score") else "left", overflow="fold")
    for hit in found["hits"]:
        text = " ".join(f"{hit['title']} {hit['text']}".split())
        cut = text if len(text) <= LONGEST else f"{text[:LONGEST]}…"
        shown.add_row(str(hit["rank"]), f"{hit['score']:.3f}", escape(hit["id"]), escape(cut))
    return shown


def _indexing(model: str, name: str) -> str | None:
    """The name of the model, if there is an index of this collection by the version asked for, or by any where an alias was."""
    parsed = registry.MODEL_URI.match(model)
    if not parsed or not is_name(name):
        return None
    pointer = indexes.current(Store(), parsed["name"], name)
    return parsed["name"] if pointer and parsed["version"] in (None, pointer["model"]["version"]) else None


def _stored_text(corpus: str, own: Path) -> Callable[[Hit], Document]:
    """What gives a hit's document, from the corpus whose manifest is at this address; shards without a hit are not fetched."""
    store = Store()
    files = store.manifest(corpus).files

    @cache
    def shard(number: int) -> dict[str, Document]:
        file = shard_file(number)
        return read_corpus(store.download(corpus.removesuffix(f"/{MANIFEST}"), {file: files[file]}, own / "corpus") / file)

    return lambda hit: shard(hit.shard)[hit.id]


def _encoded(source: str, name: str, encoder: Encoder, own: Path, say: Callable[[str], None]) -> tuple[Index, Callable[[Hit], Document]]:
    if source.startswith("s3://"):
        source = str(Store().download_prefix(source, own / "fetched" / name))
    documents = dict(corpus(source, name, own).corpus.items())
    say(f"encoding {len(documents)} documents: there is no index of {name} by this model")
    told = time.monotonic()

    def progress(done: int, total: int) -> None:
        nonlocal told
        if time.monotonic() - told > 5:
            told = time.monotonic()
            say(f"{done} of {total} tokens")

    vectors = encoder.encode([document_text(one) for one in documents.values()], "document", progress=progress)
    return build([(vectors, list(documents))], collection=name), lambda hit: documents[hit.id]
