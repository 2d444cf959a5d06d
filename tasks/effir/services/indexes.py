"""Which index of a corpus counts: one small object, changed in one write (docs/consume.md, Reindexing).

`<store>/indexes/<model>/<collection>/current.json` names an index by its digest, which covers every byte of it, the version of the model
that made it, and the corpus. What it names never changes, so a reader sees the index of before or the one of after, and never half of one.
"""

import datetime
import shutil
import tempfile
from pathlib import Path
from typing import Any

from effir.errors import BadInput, EffirError
from effir.manifest import MANIFEST, Manifest, digest_of
from effir.names import check_name
from effir.services.store import Store

KIND = "index"
FIELDS = {"index", "digest", "corpus", "documents", "collection", "model", "at", "run", "previous"}


def place(store: Store, model: str, collection: str) -> str:
    """Where the pointer lies."""
    return f"{store.root}/indexes/{check_name(model, 'the model')}/{check_name(collection, 'the collection')}/current.json"


def current(store: Store, model: str, collection: str) -> dict[str, Any] | None:
    """The pointer, or None where there is no index yet.

    {index, corpus: addresses of manifests; digest; documents; collection; model: {name, version, digest, manifest}; at; run; previous}.
    """
    uri = place(store, model, collection)
    found = store.get_json_or_none(uri)
    if found is not None and (not isinstance(found, dict) or not set(found) >= FIELDS):
        raise BadInput(f"{uri} is no pointer to an index: run effir_reindex again, which writes it anew")
    return found


def point(store: Store, model: dict[str, Any], collection: str, index: str, corpus: str, documents: int, run: str | None) -> dict[str, Any]:
    """Have this index count from now on; returns the pointer.

    model: {name, version, digest, manifest} of the version that encoded it; index, corpus: addresses of manifests; run: of Airflow. The
    index of before is named as `previous`, for those who read it just now.
    """
    digest = index.rsplit("/", 2)[1]
    before = current(store, model["name"], collection)
    previous = before["previous"] if before and before["digest"] == digest else before and before | {"previous": None}
    told = {
        "index": index, "digest": digest, "corpus": corpus, "documents": documents, "collection": collection, "model": model,
        "at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"), "run": run, "previous": previous,
    }  # fmt: skip
    store.put_json(place(store, model["name"], collection), told)
    return told


def fetch(store: Store, model: str, collection: str, folder: Path) -> tuple[dict[str, Any], Path]:
    """The pointer, and the index that it names as a new folder below `folder`, every byte compared with the digest in the pointer.

    Another index that counts meanwhile is fetched instead where the first is gone. Raises BadInput where there is none, EffirError where
    the one that counts is damaged.
    """
    while True:
        pointer = current(store, model, collection)
        if pointer is None:
            raise BadInput(f"there is no index of {collection} by {model} in {store.root}: run the DAG effir_reindex")
        target = Path(tempfile.mkdtemp(dir=folder))
        try:
            manifest = store.manifest(pointer["index"])
            check(manifest, pointer)
            return pointer, store.download(pointer["index"].removesuffix(f"/{MANIFEST}"), manifest.files, target)
        except EffirError:
            shutil.rmtree(target)
            if current(store, model, collection) == pointer:
                raise


def check(manifest: Manifest, pointer: dict[str, Any]) -> None:
    """The files are those whose digest the pointer names. Raises BadInput otherwise."""
    made_of = digest_of({"kind": KIND, "files": {path: file.sha256 for path, file in manifest.files.items()}})
    if not made_of == manifest.digest == pointer["digest"]:
        raise BadInput(f"{pointer['index']} describes another index than the pointer names ({pointer['digest']}): run effir_reindex again")


def pointers(store: Store) -> list[Any]:
    """Every pointer, for whoever asks what must stay."""
    return [store.get_json(uri) for uri, _ in store.list(f"{store.root}/indexes/") if uri.endswith("/current.json")]
