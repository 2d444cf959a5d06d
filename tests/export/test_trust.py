import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import pytest
import yaml

from effir.errors import BadInput
from effir.export import trust
from effir.export.verify import verify
from effir.manifest import describe


def update(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_an_exported_folder_is_trusted(export: Callable[..., Any]) -> None:
    one = export()
    trust.check(one.folder)
    trust.check(one.inner)


def test_changed_code_is_refused_and_never_run(export: Callable[..., Any], tmp_path: Path) -> None:
    one = export()
    ran = tmp_path / "ran"
    path = one.inner / "modeling_effir.py"
    path.write_text(path.read_text() + f"\nopen({str(ran)!r}, 'w').close()\n")
    described = json.loads((one.inner / "effir.json").read_text())
    described["files"]["modeling_effir.py"] = trust.sha256_of(path)
    (one.inner / "effir.json").write_text(json.dumps(described))
    with pytest.raises(BadInput, match=r"modeling_effir\.py names or carries code that this effir did not write"):
        verify(one.folder)
    assert not ran.exists()


def test_an_mlmodel_says_which_code_mlflow_will_run(export: Callable[..., Any]) -> None:
    one = export()
    told = yaml.safe_load((one.folder / "MLmodel").read_text())["metadata"]
    assert told == {"effir_code_sha256": hashlib.sha256((one.inner / "modeling_effir.py").read_bytes()).hexdigest()}
    assert mlflow.models.get_model_info(str(one.folder)).metadata == told


def test_the_manifest_beside_a_model_holds(export: Callable[..., Any]) -> None:
    one = export()
    about = {"phase": "finetune", "digest": "d" * 64, "key": {}, "numbers": {}, "seconds": 0, "forward_passes": 0, "created": ""}
    files = {name: file.model_dump() for name, file in describe(one.folder).items()}
    (one.folder / "manifest.json").write_text(json.dumps(about | {"files": files}))
    trust.check(one.folder)
    files["MLmodel"]["sha256"] = "0" * 64
    (one.folder / "manifest.json").write_text(json.dumps(about | {"files": files}))
    with pytest.raises(BadInput, match=r"MLmodel is not the file that .*manifest\.json describes"):
        trust.check(one.folder)
    (one.folder / "manifest.json").write_text("{}")
    with pytest.raises(BadInput, match="is no manifest"):
        trust.check(one.folder)


def described(inner: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    path = inner.parent / "MLmodel"
    flavors = yaml.safe_load(path.read_text())
    change(flavors["flavors"])
    path.write_text(yaml.safe_dump(flavors))


def bound_elsewhere(inner: Path) -> None:
    path = inner.parent / "MLmodel"
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | {"metadata": {"effir_code_sha256": "0" * 64}}))


def extra_module(inner: Path) -> None:
    path = inner / "modules.json"
    path.write_text(json.dumps([*json.loads(path.read_text()), {"idx": 3, "name": "3", "path": "", "type": "os.system"}]))


@pytest.mark.parametrize(
    "change",
    [
        lambda inner: (inner / "1_Pooling" / "helper.py").write_text(""),
        lambda inner: update(inner / "config.json", auto_map={"AutoModel": "someone/repository--modeling.Model"}),
        lambda inner: update(inner / "tokenizer_config.json", auto_map={"AutoTokenizer": ["tokenization.Tokenizer", None]}),
        extra_module,
        lambda inner: described(inner, lambda flavors: flavors["python_function"].update(loader_module="elsewhere")),
        lambda inner: described(inner, lambda flavors: flavors["python_function"].update(code="code")),
        lambda inner: described(inner, lambda flavors: flavors.update(sklearn={"pickled_model": "model.pkl"})),
        bound_elsewhere,
        lambda inner: (inner.parent / "MLmodel").write_text("- a list"),
    ],
    ids=["file", "config", "tokenizer", "module", "loader", "code path", "flavor", "other code", "a list"],
)
def test_every_way_to_name_other_code_is_refused(export: Callable[..., Any], change: Callable[[Path], Any]) -> None:
    one = export()
    change(one.inner)
    with pytest.raises(BadInput, match="code that this effir did not write"):
        trust.check(one.folder)


def test_an_mlmodel_that_is_not_the_models_is_left_alone(export: Callable[..., Any], tmp_path: Path) -> None:
    copy = tmp_path / "elsewhere" / "retriever"
    shutil.copytree(export().inner, copy)
    (copy.parent / "MLmodel").write_text("flavors: {python_function: {loader_module: os}}")
    assert set(verify(copy)) == {"effir", "transformers", "sentence-transformers"}


@pytest.mark.parametrize("text", ["flavors: [", "flavors: !!python/object/apply:os.getcwd []"])
def test_an_mlmodel_that_cannot_be_read_is_damaged(export: Callable[..., Any], text: str) -> None:
    one = export()
    (one.folder / "MLmodel").write_text(text)
    with pytest.raises(BadInput, match="MLmodel is damaged: "):
        trust.check(one.folder)


def test_missing_and_damaged_files_are_named(export: Callable[..., Any]) -> None:
    one = export()
    (one.inner / "README.md").unlink()
    with pytest.raises(BadInput, match=r"README\.md is missing"):
        trust.check(one.folder)
    (one.inner / "effir.json").write_text("{")
    with pytest.raises(BadInput, match=r"effir\.json is missing or damaged"):
        trust.check(one.folder)
    (one.inner / "modeling_effir.py").unlink()
    with pytest.raises(BadInput, match=r"modeling_effir\.py is missing"):
        trust.check(one.folder)
