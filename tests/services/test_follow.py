from typing import Any

import pytest

from effir.errors import EffirError
from effir.services.airflow import Airflow
from effir.services.follow import Follower, Task, run

RESULT = {
    "phase": "encode", "arguments": {"model": "candidate", "collection": "seen", "shard": 1}, "cached": True,
    "numbers": {"documents": 1200, "tokens_per_second": 2900.123, "more": 1},
}  # fmt: skip


def test_a_line_says_state_time_and_figure() -> None:
    assert Task("slim", "running", 12.34, 40.0, "loss 0.1").line().split() == [
        "slim",
        "running",
        "12.3",
        "s",
        "40",
        "s",
        "left,",
        "loss",
        "0.1",
    ]
    assert Task("slim", "success", 3.0, 40.0, result=RESULT).line().split() == ["slim", "cached", "3.0", "s"]
    assert Task("slim", "failed", 3.0).line() == f"{'slim':<36} failed       3.0 s"


def test_names_and_figures() -> None:
    from effir.services import follow

    assert follow._called("encode", RESULT) == "encode candidate seen 1"
    assert follow._named("finetune_reference", -1) == "finetune reference"
    assert follow._named("encode", 3) == "encode 3"
    assert follow._figure(RESULT) == "documents 1,200, tokens_per_second 2900"


def test_a_silent_airflow_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("effir.services.follow.POLL_SECONDS", 0.01)
    with pytest.raises(EffirError, match="is not reachable"):
        Follower(Airflow("http://127.0.0.1:9", "admin", ""), "x", print).until_over()


def test_whoever_presses_ctrl_c_is_told_that_the_run_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def pressed(seconds: float) -> None:
        raise KeyboardInterrupt

    answers = {"dag": {}, "trigger": "x", "run": {"state": "running"}, "tasks": []}
    for name, answer in answers.items():
        monkeypatch.setattr(Airflow, name, lambda *_, answer=answer: answer)
    monkeypatch.setattr("effir.services.follow.time.sleep", pressed)
    said: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        run({"EFFIR_AIRFLOW_URL": "http://127.0.0.1:1"}, "demo", {}, said.append)
    page = said[0].partition(": ")[2]
    assert page in said[1] and "goes on without you" in said[1]


def test_a_failed_run_gives_its_sentence(stack: Any) -> None:
    said: list[str] = []
    with pytest.raises(EffirError, match="/absent/seen") as caught:
        run(stack.settings, "demo", {"collections": "/absent/seen", "in_domain": "", "margins": ""}, said.append)
    assert caught.value.exit_code == 2
    assert said[0].startswith("run effir-")
    assert [line.split()[:2] for line in said[1:] if "running" not in line] == [["begin", "success"], ["prepare", "failed"]]


def test_whoever_waits_is_told_that_a_person_is_asked() -> None:
    class Asked(Airflow):
        def tasks(self, dag: str, run_id: str) -> list[dict[str, Any]]:
            return [{"task_id": "approval", "map_index": -1, "state": "awaiting_input", "start_date": "2026-01-01T00:00:00Z"}]

    said: list[str] = []
    follower = Follower(Asked("http://127.0.0.1:1", "admin", ""), "manual__1", said.append)
    follower.look()
    follower.look()
    page = "http://127.0.0.1:1/dags/effir_compress/runs/manual__1/tasks/approval/required_actions"
    assert said == [f"{'approval':<36} waits for a person's answer: {page}"]
