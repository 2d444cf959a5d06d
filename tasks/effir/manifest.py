"""What was made: an artifact's manifest, and the digest that names it.

A digest covers everything that decides the bytes: the phase, the source of the code that makes it, library
versions, the slice of the spec it reads, its inputs' digests, and the kind of machine. It is known before
any work is done, so finished work is found and not repeated.
"""

import ast
import hashlib
import importlib.metadata
import json
import os
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from effir.errors import BadInput, shown
from effir.names import NAME, is_relative

MANIFEST = "manifest.json"
HEX = "^[0-9a-f]{64}$"
ROOT = Path(__file__).parent
LIBRARIES = ("torch", "transformers", "peft", "sentence-transformers")


def _below(path: str) -> str:
    if not is_relative(path):
        raise ValueError(f"{shown(path)} lies outside the artifact, or names no file")
    return path


class File(BaseModel):
    """One file of an artifact."""

    sha256: str = Field(pattern=HEX)
    size: int = Field(ge=0)


class Manifest(BaseModel):
    """Describes an artifact; written last, so an artifact without one does not exist.

    files: relative path → digest and size; parts: name → manifest URI of an artifact published on its own
    (prepare's base model, training data, …); numbers: the few figures worth a line; output: JSON for later phases.
    """

    model_config = ConfigDict(extra="forbid")

    phase: str = Field(pattern=NAME)
    digest: str = Field(pattern=HEX)
    key: dict[str, Any]
    files: dict[Annotated[str, AfterValidator(_below)], File]
    parts: dict[str, Annotated[str, Field(pattern="^s3://")]] = {}
    numbers: dict[str, Any]
    output: dict[str, Any] = {}
    seconds: float = Field(ge=0, allow_inf_nan=False)
    forward_passes: int = Field(ge=0)
    created: str
    mlflow_run_id: str | None = None


def parse(value: Any, where: str) -> Manifest:
    """A manifest out of JSON. Raises BadInput naming `where` it lies if it is none, or names what lies outside its artifact."""
    try:
        return Manifest.model_validate(value)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(shown(part)[1:-1] if isinstance(part, str) else str(part) for part in first["loc"])
        told = f"{field or 'it'}: {first['msg'].removeprefix('Value error, ')}"
        raise BadInput(f"{where} is no manifest ({told}): run the phase again that made it") from None


def digest_of(key: Mapping[str, Any]) -> str:
    """Name of an artifact: sha256 of its key as canonical JSON, 64 hex digits."""
    text = json.dumps(key, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def content_of(files: Mapping[str, File]) -> str:
    """Digest of what an artifact's files hold: the same for the same bytes under the same paths, 64 hex digits."""
    return digest_of({path: file.sha256 for path, file in files.items()})


def sha256_of(path: Path) -> str:
    """sha256 of a file, 64 hex digits."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def describe(folder: Path) -> dict[str, File]:
    """Every file below a folder by its relative path, with digest and size."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): File(sha256=sha256_of(path), size=path.stat().st_size) for path in paths}


def machine(device: str, threads: int) -> dict[str, Any]:
    """The part of a key that says where it is computed, without importing torch."""
    if device == "auto":
        device = "cuda" if Path("/dev/nvidia0").exists() else "cpu"
    return {"device": device, "threads": threads or os.cpu_count()}


@cache
def library_versions() -> dict[str, str]:
    """Versions of the libraries that decide numerical results, read without importing them."""
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


@cache
def code_version(module: str) -> str:
    """Digest of a module's code and of all effir code that it imports; comments and docstrings do not count."""
    sources = {name: _normalised(path) for name, path in sorted(_closure(module).items())}
    return digest_of(sources)


def _closure(module: str) -> dict[str, Path]:
    found: dict[str, Path] = {}
    waiting = [module]
    while waiting:
        name = waiting.pop()
        path = _source(name)
        if path is None or name in found:
            continue
        found[name] = path
        waiting.extend(_imports(path))
    return found


def _source(module: str) -> Path | None:
    """The file of an effir module, found by path so that nothing is imported."""
    stem = ROOT.joinpath(*module.split(".")[1:])
    return next((path for path in (stem.with_suffix(".py"), stem / "__init__.py") if path.is_file()), None)


def _imports(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in names if name.startswith("effir.")}


def _normalised(path: Path) -> str:
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list) and body and isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant):
            body[0].value.value = ""
    return ast.dump(tree)
