import json
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


def test_every_way_to_name_other_code_is_refused(export: Callable[..., Any]) -> None:
    def added(inner: Path) -> None:
        (inner / "1_Pooling" / "helper.py").write_text("")

    def elsewhere(inner: Path) -> None:
        update(inner / "config.json", auto_map={"AutoModel": "someone/repository--modeling.Model"})

    def tokenizer(inner: Path) -> None:
        update(inner / "tokenizer_config.json", auto_map={"AutoTokenizer": ["tokenization.Tokenizer", None]})

    def module(inner: Path) -> None:
        path = inner / "modules.json"
        path.write_text(json.dumps([*json.loads(path.read_text()), {"idx": 3, "name": "3", "path": "", "type": "os.system"}]))

    def loader(inner: Path) -> None:
        path = inner.parent / "MLmodel"
        described = yaml.safe_load(path.read_text())
        described["flavors"]["python_function"]["loader_module"] = "elsewhere"
        path.write_text(yaml.safe_dump(described))

    def flavor(inner: Path) -> None:
        path = inner.parent / "MLmodel"
        described = yaml.safe_load(path.read_text())
        described["flavors"]["sklearn"] = {"pickled_model": "model.pkl"}
        path.write_text(yaml.safe_dump(described))

    def code(inner: Path) -> None:
        path = inner.parent / "MLmodel"
        described = yaml.safe_load(path.read_text())
        described["flavors"]["python_function"]["code"] = "code"
        path.write_text(yaml.safe_dump(described))

    for family, change in zip(
        ("Llama", "Mistral", "Qwen2", "Qwen3") * 2, (added, elsewhere, tokenizer, module, loader, flavor, code), strict=False
    ):
        one = export(family, "nothing" if change in (added, elsewhere, tokenizer, module) else "mlps")
        change(one.inner)
        with pytest.raises(BadInput, match="code that this effir did not write"):
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
