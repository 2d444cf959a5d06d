import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from effir import comparing
from effir.cli import app
from effir.errors import BadInput


@pytest.fixture
def two(judged) -> tuple[dict, dict]:
    """The results of two reports whose candidates differ by 0.05; `judged.run` is that of the second."""
    results = []
    for number, gain in enumerate((0.0, 0.05)):
        judged.name, judged.run = f"run{number}", judged.run | {"id": f"run{number}"}
        judged.offset["candidate"] = gain
        judged.weights = f"weights {number}"
        judged.spec |= {"name": f"model{number}-{judged.store.root[-12:]}", "seed": number}
        judged.prepare().execute("gate")
        judged.execute("promote")
        results.append(judged.execute("report"))
    return results[0], results[1]


def test_two_runs_are_found_by_what_a_person_has_at_hand_and_set_side_by_side(judged, two, tmp_path: Path) -> None:
    report = two[0]["output"]["report"]
    (tmp_path / "last-run.json").write_text(json.dumps(two[0]["output"]["summary"]))
    found = [comparing.find(name, judged.store) for name in ("run0", str(tmp_path / "last-run.json"), report, report.rpartition("/")[0])]
    assert {one.summary["dag_run_id"] for one in found} == {"run0"}
    assert {one.spec["name"] for one in found} == {two[0]["output"]["summary"]["model"]["name"]}
    assert all(set(one.scores) == set(judged.queries) == set(one.data) for one in found)
    commanded(two, tmp_path)


@pytest.mark.parametrize("name", ["absent", "s3://effir/artifacts/evaluate/x", "s3://effir/artifacts/report/" + "0" * 64])
def test_what_is_no_run_is_refused_in_a_sentence(judged, name: str) -> None:
    with pytest.raises(BadInput, match="name a run by its id"):
        comparing.find(name, judged.store)


def test_a_file_that_is_no_summary_is_refused(judged, tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text("[]")
    with pytest.raises(BadInput, match="no summary of a run"):
        comparing.find(str(tmp_path / "x.json"), judged.store)


def commanded(two: tuple[dict, dict], tmp_path: Path) -> None:
    """What `effir compare` prints and writes of both."""
    told = CliRunner().invoke(app, ["compare", "run0", "run1", "--json", "--html", str(tmp_path / "both.html")])
    assert told.exit_code == 0, told.output
    found = json.loads(told.stdout)
    assert found["settings"]["seed"] == [0, 1]
    for name, one in found["collections"].items():
        means = [result["output"]["summary"]["quality"][name]["candidate"] for result in two]
        assert [one["first"], one["second"]] == pytest.approx(means)
        assert one["difference"] == pytest.approx(means[1] - means[0])
        assert one["interval"][0] < one["difference"] < one["interval"][1]
    assert "run0" in (tmp_path / "both.html").read_text()
    shown = CliRunner().invoke(app, ["compare", "run0", "run1"], env={"COLUMNS": "200"})
    assert shown.exit_code == 0 and "mean of 2" in shown.output and "seed" in shown.output
