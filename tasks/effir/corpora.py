"""A corpus to search, by name: what the spec calls a collection, or a folder with a corpus alone."""

from functools import partial
from pathlib import Path

from effir import sources
from effir.retrieve import files
from effir.retrieve.collections import Collection, Corpus


def corpus(source: str, name: str, scratch: Path) -> Collection:
    """stdlib-code, semanlink, beir:NAME, or a folder in BEIR layout, whose queries and judgements may be missing.

    Raises BadInput as `sources.collection` does.
    """
    folder = sources.local(source)
    if folder is None or not folder.is_dir() or (folder / "queries.jsonl").is_file():
        return sources.collection(source, name, scratch)
    paths = files.corpus_files(folder)
    ids: set[str] = set()
    for _ in files.documents(paths, ids):
        pass
    return Collection(name, Corpus(len(ids), partial(files.documents, paths)), {}, {})
