"""Is an exported folder what effir wrote? Asked before anything in it is loaded, because loading may run its code."""

import json
from pathlib import Path
from typing import Any

import yaml

from effir.errors import BadInput
from effir.export import modeling_effir
from effir.export.loading import SETTINGS, model_folder
from effir.export.mlmodel import BOUND
from effir.manifest import MANIFEST, parse, sha256_of
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
    for name, digest in _json(inner / SETTINGS).get("files", {}).items():
        path = inner / name
        if not path.is_file():
            raise BadInput(f"{path} is missing: copy the exported folder again, with everything in it")
        if sha256_of(path) != digest:
            raise BadInput(f"{path} is not what effir wrote (its sha256 differs): copy or export the folder again")
    if (beside := inner.resolve().parent / MANIFEST).is_file() and inner.resolve().name == "model":
        _check_manifest(beside, inner)


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
        if not all(str(place).startswith(f"{Path(CODE).stem}.Effir") for place in places.values()):
            raise _foreign(inner / name)
    if not all(str(module.get("type")).startswith(MODULES) for module in _json(inner / "modules.json")):
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
    try:
        described = yaml.safe_load(path.read_text())
        flavors = described["flavors"]
        python, bound = flavors["python_function"], (described.get("metadata") or {}).get(BOUND, own_code())
    except (yaml.YAMLError, ValueError, KeyError, TypeError, AttributeError):
        raise _foreign(path) from None
    if (
        list(flavors) != ["python_function"]
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


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        raise BadInput(f"{path} is missing or damaged: this is not a folder that effir exported, or not all of it") from None
