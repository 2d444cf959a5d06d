"""Code that travels with a base model: off by default; where it is allowed, exactly the code that somebody has read."""

from pathlib import Path
from typing import Any

from effir import strictjson
from effir.errors import BadInput
from effir.manifest import digest_of, sha256_of

CONFIGS = ("config.json", "tokenizer_config.json", "generation_config.json", "processor_config.json", "preprocessor_config.json")
ELSEWHERE = "--"
PICKLED = {".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib"}


def code_files(folder: Path) -> list[Path]:
    """Every file below a folder that importing one of them could run."""
    return sorted(path for pattern in ("*.py", "*.so", "*.pyd", "*.pyc") for path in folder.rglob(pattern))


def digest(folder: Path) -> str:
    """sha256 over names and contents of a folder's code files, 64 hex digits."""
    return digest_of({path.relative_to(folder).as_posix(): sha256_of(path) for path in code_files(folder)})


def check(source: str, folder: Path, expected: str | None) -> None:
    """The code in a base model's folder is what `expected` says. Raises BadInput, before any of it is imported, otherwise.

    source: what the folder is called in sentences. A folder without code needs no digest.
    """
    for name in CONFIGS:
        for place in _named(folder / name):
            if ELSEWHERE in place:
                raise BadInput(f"{name} of {source} names code of another repository ({place}), which no digest covers: it is not run")
    files = code_files(folder)
    if not files:
        return
    found = digest(folder)
    if expected is None:
        names = ", ".join(path.relative_to(folder).as_posix() for path in files)
        raise BadInput(f"{source} brings code ({names}), and nobody said which code was read: read it, then set base_code={found}")
    if found != expected:
        raise BadInput(
            f"the code of {source} is not the code that base_code allows: its digest is {found}, allowed is {expected}; it is not run"
        )


def check_adapter(source: str, folder: Path) -> None:
    """Raises BadInput for a folder that holds an adapter: transformers would then read the model that the adapter names."""
    if (folder / "adapter_config.json").exists():
        raise BadInput(f"{source} holds an adapter (adapter_config.json), which names another model: merge it, and give the merged model")


def check_pickles(source: str, folder: Path) -> None:
    """Raises BadInput for a folder with weights that could only be unpickled; beside safetensors they are not read, and do no harm."""
    for path in sorted(folder.rglob("*")):
        if path.suffix in PICKLED and not any(path.parent.glob("*.safetensors")):
            raise BadInput(f"{path} of {source} is a pickle, which could run anything: save the model as safetensors")


def _named(path: Path) -> list[str]:
    """The places that a config's auto_map names."""
    told: Any = (strictjson.table(path).get("auto_map") if path.exists() else None) or {}
    values = told.values() if isinstance(told, dict) else [told]
    return [str(one) for value in values for one in (value if isinstance(value, list) else [value]) if one]
