import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from effir import cli
from effir.errors import BadInput, EffirError
from effir.export import formats


def test_commands_write_and_verify_another_format(export: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    one = export()
    done = CliRunner().invoke(cli.app, ["export", str(one.folder), "--to", "decilm"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["decilm"] <= 1e-6
    assert "decilm holds the model for decilm" in done.stderr
    done = CliRunner().invoke(cli.app, ["verify", str(tmp_path / "decilm")])
    assert list(json.loads(done.stdout)) == ["decilm"]
    again = CliRunner().invoke(cli.app, ["export", str(one.folder), "--to", "decilm", "--out", "elsewhere/made"])
    assert again.exit_code == 0
    assert (tmp_path / "elsewhere" / "made" / "config.json").is_file()
    far = CliRunner().invoke(cli.app, ["verify", str(one.folder), "--server", "http://127.0.0.1:9/v1", "--served", "x"])
    assert isinstance(far.exception, EffirError)


def test_the_format_of_a_folder(export: Callable[..., Any], tmp_path: Path) -> None:
    one = export("Mistral")
    assert formats.format_of(one.inner) is None
    assert formats.format_of(one.folder) is None
    formats.export(one.inner, "decilm", tmp_path / "made")
    assert formats.format_of(tmp_path / "made") == "decilm"
    assert sorted(path.name for path in (tmp_path / "made").iterdir()) == [
        "1_Pooling", "2_Normalize", "README.md", "config.json", "config_sentence_transformers.json", "configuration_decilm.py",
        "effir.json", "golden.json", "golden.safetensors", "model.safetensors", "modules.json", "sentence_bert_config.json",
        "tokenizer.json", "tokenizer_config.json",
    ]  # fmt: skip
    assert "put 'find:\\n' before a query (at most 64 tokens)" in (tmp_path / "made" / "README.md").read_text()


def test_a_foreign_or_damaged_source_is_refused_before_it_is_read(export: Callable[..., Any], tmp_path: Path) -> None:
    one = export()
    (one.inner / "modeling_effir.py").write_text("raise SystemExit")
    with pytest.raises(BadInput, match="code that this effir did not write"):
        formats.export(one.folder, "decilm", tmp_path / "made")
    assert not (tmp_path / "made").exists()
