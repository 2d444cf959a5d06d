"""The MLmodel file and its requirement files: what `mlflow.pyfunc` needs to load the folder by its sentence-transformers loader.

Written as data: the machine that exports needs no MLflow, and nothing is pickled.
"""

import importlib.metadata
import json
import platform
from pathlib import Path

import yaml

from effir.manifest import sha256_of

PACKAGES = ("mlflow", "sentence-transformers", "transformers", "torch")
BOUND = "effir_code_sha256"
"""Key of MLmodel's metadata that says which code MLflow's loader will run: it takes no flag that would have it run none."""


def installed(packages: tuple[str, ...]) -> dict[str, str]:
    """Versions of those that are installed, without build tags (2.13.0+cpu is 2.13.0)."""
    found = {}
    for name in packages:
        try:
            found[name] = importlib.metadata.version(name).partition("+")[0]
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def write_mlmodel(folder: Path, width: int, data: str = "model") -> None:
    """Write MLmodel, requirements.txt, python_env.yaml and conda.yaml; `data`: the model's folder, `width`: the vectors' length.

    predict(texts) embeds documents; predict(texts, params={"prompt_name": "query", "task": "query"}) embeds queries:
    the one chooses the template, the other the length at which texts are cut.
    """
    versions = installed(PACKAGES)
    pins = [f"{name}=={version}" for name, version in versions.items()]
    python = platform.python_version()
    signature = {
        "inputs": [{"type": "string", "required": True}],
        "outputs": [{"type": "tensor", "tensor-spec": {"dtype": "float32", "shape": [-1, width]}}],
        "params": [{"name": name, "type": "string", "default": "document", "shape": None} for name in ("prompt_name", "task")],
    }
    flavor = {
        "loader_module": "mlflow.sentence_transformers",
        "data": data,
        "env": {"conda": "conda.yaml", "virtualenv": "python_env.yaml"},
        "python_version": python,
    }
    described = {
        "flavors": {"python_function": flavor},
        "mlflow_version": versions.get("mlflow"),
        "metadata": {BOUND: sha256_of(folder / data / "modeling_effir.py")},
        "signature": {name: json.dumps(value) for name, value in signature.items()},
    }
    conda = {"name": "mlflow-env", "channels": ["conda-forge"], "dependencies": [f"python={python}", "pip", {"pip": pins}]}
    for name, content in (
        ("MLmodel", described),
        ("python_env.yaml", {"python": python, "dependencies": ["-r requirements.txt"]}),
        ("conda.yaml", conda),
    ):
        (folder / name).write_text(yaml.safe_dump(content, sort_keys=False))
    (folder / "requirements.txt").write_text("".join(f"{pin}\n" for pin in pins))
