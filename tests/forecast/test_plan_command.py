"""`effir plan --hardware`, as a person starts it."""

import json
from pathlib import Path
from typing import Any

import pytest

from effir import cli
from effir.errors import BadInput

RUN = Path(__file__).parent / "demo-run.json"


def plan(capsys: pytest.CaptureFixture[str], **options: Any) -> str:
    cli.plan(**options)
    return capsys.readouterr().out


@pytest.mark.parametrize("hardware", ["h100x8", "h100x1"])
def test_the_paper_s_recipe_on_the_13_beir_sets(capsys: pytest.CaptureFixture[str], hardware: str) -> None:
    found = json.loads(plan(capsys, profile="mistral-7b-paper", hardware=hardware, as_json=True))
    rows = {row["phase"]: row for row in found["phases"]}
    assert rows["encode candidate"]["tasks"] == 499
    assert rows["encode candidate"]["tokens"] == rows["encode reference"]["tokens"] > 2e9
    assert rows["encode candidate"]["device_hours"] < rows["encode reference"]["device_hours"]
    assert found["unit"] == "GPU hours"
    assert found["totals"]["wall"] > max(row["wall"] for row in rows.values())


def test_msmarco_is_a_collection_like_the_others(capsys: pytest.CaptureFixture[str]) -> None:
    given = ["collections=beir:msmarco", "shard_documents=100000"]
    found = json.loads(plan(capsys, profile="mistral-7b-paper", hardware="h100x1", assignments=given, as_json=True))
    rows = {row["phase"]: row for row in found["phases"]}
    assert rows["encode base"]["tasks"] == 89
    assert rows["encode base"]["stored"] == pytest.approx(8_841_823 * 2 * 4096, rel=0.01)


def test_a_table_and_what_stands_out(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    shown = plan(capsys, profile="mistral-7b-paper", hardware="h100x8")
    assert shown.startswith("mistralai/Mistral-7B-v0.1 16M on h100x8")
    assert "GPU hours" in shown
    assert "The wall time is that of: " in shown


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"hardware": "toaster"}, "there is no hardware 'toaster'"),
        ({"measured": RUN}, "--against needs --hardware"),
        ({"hardware": "cpu2", "measured": Path("/absent.json")}, "/absent.json is no summary of a run"),
        ({"hardware": "cpu2", "speedup": 2.0}, "a forecast takes its cut from the recipe"),
        ({"hardware": "cpu2", "assignments": ["collections=beir:cqadupstack"]}, "the size of beir:cqadupstack is not known"),
        ({"hardware": "cpu2", "assignments": ["base_model=gpt-9"]}, "no sizes are known of 'gpt-9'"),
        ({"hardware": "cpu2", "assignments": ["training_data=/absent"]}, "the training data /absent is not on this machine"),
    ],
)
def test_what_cannot_be_forecast_is_one_sentence(options: dict[str, Any], said: str) -> None:
    with pytest.raises(BadInput) as refused:
        cli.plan(**{"profile": "mistral-7b-paper"} | options)
    assert str(refused.value).startswith(said)
