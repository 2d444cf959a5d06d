"""Is an exported folder what effir wrote? Asked before anything in it is loaded, because loading may run its code."""

from pathlib import Path
from typing import Any

import yaml

from effir import strictjson
from effir.errors import BadInput
from effir.export import modeling_effir
from effir.export.loading import SETTINGS, model_folder
from effir.export.mlmodel import BOUND
from effir.manifest import MANIFEST, parse, sha256_of
from effir.modelfiles import understood
from effir.names import check_links

CODE = "modeling_effir.py"
MODULES = "sentence_transformers.models."


def check(folder: Path) -> None:
    """Digests of all files of the model folder, and no code but effir's own. Raises BadInput naming the file otherwise.

    Where the artifact's manifest lies beside the model, the digests in it hold too.
    """
    inner = model_folder(folder)
    check_links(inner)
    check_code(inner)
    if described := mlmodel_of(inner):
        _check_mlmodel(described)
    check_digests(inner)
    if (beside := inner.resolve().parent / MANIFEST).is_file() and inner.resolve().name == "model":
        _check_manifest(beside, inner)


def check_digests(inner: Path) -> None:
    """Every file that effir.json names is there and has the sha256 that it gives. Raises BadInput naming the file otherwise."""
    named = _json(inner / SETTINGS).get("files", {})
    if not isinstance(named, dict):
        raise BadInput(f"{inner / SETTINGS} does not name the exported files with their sha256: export the model again")
    for name, digest in named.items():
        path = inner / name
        if not path.is_file():
            raise BadInput(f"{path} is missing: copy the exported folder again, with everything in it")
        if sha256_of(path) != digest:
            raise BadInput(f"{path} is not what effir wrote (its sha256 differs): copy or export the folder again")


def check_converted(folder: Path, code: Path | None) -> None:
    """The same of a folder that `effir export` wrote; `code`: the one module that its configuration may name and it may carry."""
    check_links(folder)
    for path in sorted(folder.rglob("*.py")):
        if code is None or path != folder / code.name or path.read_bytes() != code.read_bytes():
            raise _foreign(path)
    for name in ("config.json", "tokenizer_config.json"):
        places = _json(folder / name).get("auto_map") or {}
        own = code is not None and isinstance(places, dict) and all(str(place).startswith(f"{code.stem}.Deci") for place in places.values())
        if places and not own:
            raise _foreign(folder / name)
    check_digests(folder)
    named = _json(folder / SETTINGS).get("files", {})
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path != folder / SETTINGS and path.relative_to(folder).as_posix() not in named:
            raise BadInput(f"{path} is not among the files that effir wrote: remove it, or export the model again")


def mlmodel_of(inner: Path) -> Path | None:
    """The MLmodel file that belongs to a model folder; None where the folder was copied without it."""
    path = inner.resolve().parent / "MLmodel"
    return path if path.is_file() and inner.resolve().name == "model" else None


def check_code(inner: Path) -> None:
    """Nothing that loading the folder would run differs from effir's own code. Raises BadInput otherwise."""
    for path in sorted(inner.rglob("*.py")):
        if path != inner / CODE or path.read_bytes() != Path(modeling_effir.__file__).read_bytes():
            raise _foreign(path)
    if not (inner / CODE).is_file():
        raise BadInput(f"{inner / CODE} is missing: this is not a folder that effir exported, or not all of it")
    for name in ("config.json", "tokenizer_config.json"):
        places = _json(inner / name).get("auto_map") or {}
        if not isinstance(places, dict) or not all(str(place).startswith(f"{Path(CODE).stem}.Effir") for place in places.values()):
            raise _foreign(inner / name)
    modules = _json(inner / "modules.json", list)
    if not all(isinstance(module, dict) and str(module.get("type")).startswith(MODULES) for module in modules):
        raise _foreign(inner / "modules.json")


def own_code() -> str:
    """sha256 of the one code file that an exported folder may carry, 64 hex digits."""
    return sha256_of(Path(modeling_effir.__file__))


def _check_manifest(path: Path, inner: Path) -> None:
    for name, file in parse(_json(path), str(path)).files.items():
        one = inner.parent / name
        if not one.is_file() or sha256_of(one) != file.sha256:
            raise BadInput(f"{one} is not the file that {path} describes: copy the artifact again, with everything in it")


def _check_mlmodel(path: Path) -> None:
    with understood(f"{path} is damaged"):
        described = yaml.safe_load(path.read_text())
    flavors, metadata = (described.get(name) or {} if isinstance(described, dict) else {} for name in ("flavors", "metadata"))
    python = flavors.get("python_function") if isinstance(flavors, dict) else None
    bound = metadata.get(BOUND, own_code()) if isinstance(metadata, dict) else None
    if (
        not isinstance(flavors, dict)
        or not isinstance(python, dict)
        or list(flavors) != ["python_function"]
        or python.get("loader_module") != "mlflow.sentence_transformers"
        or python.get("data") != "model"
        or "code" in python
        or "model_code_path" in python
        or bound != own_code()
    ):
        raise _foreign(path)


def _foreign(path: Path) -> BadInput:
    return BadInput(
        f"{path} names or carries code that this effir did not write, and it is not run: export the model with this version of effir"
    )


def _json(path: Path, kind: type = dict) -> Any:
    try:
        found = strictjson.read(path)
    except BadInput:
        found = None
    if not isinstance(found, kind):
        raise BadInput(f"{path} is missing or damaged: this is not a folder that effir exported, or not all of it")
    return found
