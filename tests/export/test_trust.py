import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from effir.errors import BadInput
from effir.export import trust
from effir.export.verify import verify


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


def described(inner: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    path = inner.parent / "MLmodel"
    flavors = yaml.safe_load(path.read_text())
    change(flavors["flavors"])
    path.write_text(yaml.safe_dump(flavors))


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
    ],
    ids=["file", "config", "tokenizer", "module", "loader", "code path", "flavor"],
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
