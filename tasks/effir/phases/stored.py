"""Collections and vectors where they are stored, fetched a shard at a time: a phase's memory and disk are bounded by a shard."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from effir.errors import BadInput
from effir.manifest import MANIFEST
from effir.phases.job import Job
from effir.reading import read_json
from effir.retrieve.collections import Collection, Corpus, load_judged
from effir.retrieve.files import Document, document_text, read_corpus, shard_file

SMALL = ("collection.json", "queries.jsonl", "qrels/test.tsv")


@dataclass(frozen=True)
class Stored:
    """A collection that prepare published.

    collection: queries and judgements in memory; its corpus is fetched anew whenever it is gone through
    shards:     of each shard of the corpus {documents: how many, ids: digest of their ids}
    """

    job: Job
    uri: str
    collection: Collection
    shards: list[dict[str, Any]]

    def texts(self, number: int) -> dict[str, str]:
        """Document id → what is embedded of it, for one shard. Raises BadInput if there is no such shard."""
        return {key: document_text(document) for key, document in _shard(self.job, self.uri, number).items()}


def collections(job: Job) -> dict[str, Stored]:
    """The input `collections` by name, in order."""
    uris = job.inputs.get("collections") or []
    if not uris:
        raise BadInput(f"phase {job.phase} needs the input 'collections', a list of manifest URIs")
    found = [collection(job, uri) for uri in uris]
    return {one.collection.name: one for one in found}


def collection(job: Job, uri: str) -> Stored:
    """The collection whose manifest is at `uri`."""
    with borrowed(job, uri, *SMALL) as folder:
        shards = read_json(folder / "collection.json")["shards"]

        def read() -> Iterator[tuple[str, Document]]:
            for number in range(len(shards)):
                yield from _shard(job, uri, number).items()

        return Stored(job, uri, load_judged(folder, Corpus(sum(one["documents"] for one in shards), read)), shards)


@contextmanager
def borrowed(job: Job, uri: str, *paths: str) -> Iterator[Path]:
    """These files of the artifact whose manifest is at `uri` (none named: all), digests checked, in a folder that is gone afterwards.

    Raises BadInput if the artifact has no such file.
    """
    files = job.manifest_at(uri).files
    if absent := [path for path in paths if path not in files]:
        raise BadInput(f"{uri} has no file {absent[0]}: it was made from something else than the other inputs of phase {job.phase}")
    with tempfile.TemporaryDirectory(dir=job.scratch) as folder:
        chosen = {path: files[path] for path in paths or files}
        yield job.store.download(uri.removesuffix(f"/{MANIFEST}"), chosen, Path(folder))


def _shard(job: Job, uri: str, number: int) -> dict[str, Document]:
    with borrowed(job, uri, shard_file(number)) as folder:
        return read_corpus(folder / shard_file(number))
