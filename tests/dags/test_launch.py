from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ENDS = """
import os
import launch

class Ending(launch.Phase):
    def launch(self, command, context):
        return code, "because"

def ended(phase, **known):
    task, told = Ending(task_id=phase, phase=phase, retry_delay=datetime.timedelta(seconds=90)), context(phase, **known)
    try:
        ended = task.execute(told)
    except Exception as error:
        later = getattr(error, "reschedule_date", None)
        seconds = later and round((later - datetime.datetime.now(datetime.UTC)).total_seconds())
        ended = [type(error).__name__, str(error), seconds]
    call = launch.read(launch.address(told, "calls"))
    return [ended, told["ti"].pushed.get("error"), call.get("halvings"), launch.pressure(told)]

def away(phase, **known):
    task = Ending(task_id=phase, phase=phase, retry_delay=datetime.timedelta(seconds=90))
    try:
        task.execute(context(phase, **known))
    except Exception as error:
        return type(error).__name__

found = {}
code = 0
result = {
    "phase": "depth", "cached": False, "seconds": 1.25, "forward_passes": 3, "numbers": {"dropped": 4}, "output": {"note": "**good**"},
    "manifest": "s3://effir/artifacts/depth/abc/manifest.json", "mlflow_run_id": "child",
}
launch.write(launch.address(context("depth"), "results"), result)
found["done"] = ended("depth")
code = 2
found["bad input"] = ended("depth")
code = 1
found["failed"] = ended("depth")
code = 75
found["stopped"] = ended("depth")
found["stopped again and again"] = ended("depth", rescheduled=launch.PATIENCE)
code = 76
found["memory"] = [ended("finetune") for _ in range(2)]
launch.write(launch.address(context("slim"), "pressure"), {"halvings": launch.HALVINGS})
found["memory, whatever is halved"] = ended("slim")
found["memory, and nothing to halve"] = ended("encode", map_index=3)
os.environ["AIRFLOW_CONN_EFFIR_S3"] = json.dumps({"conn_type": "aws", "extra": {
    "endpoint_url": "http://127.0.0.1:9", "config_kwargs": {"retries": {"total_max_attempts": 1}}, "region_name": "us-east-1",
}, "login": "x", "password": "y"})
launch.s3.cache_clear()
code = 0
found["S3 is away"] = away("depth")
found["S3 is away for long"] = away("depth", rescheduled=launch.PATIENCE)
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def ends(in_airflow: Callable[..., Any], airflow_s3: Callable[[], dict[str, str]]) -> dict[str, Any]:
    return in_airflow(ENDS, **airflow_s3())


def test_a_phase_that_is_done_hands_its_result_back(ends: dict[str, Any]) -> None:
    (result, *rest) = ends["done"]
    assert (result["phase"], result["numbers"]) == ("depth", {"dropped": 4})
    assert rest == [None, None, 0]


@pytest.mark.parametrize(
    ("case", "code", "raised", "seconds"),
    [
        ("bad input", 2, "AirflowFailException", None),
        ("failed", 1, "AirflowException", None),
        ("stopped", 75, "AirflowRescheduleException", 90),
        ("stopped again and again", 75, "AirflowException", None),
        ("memory, and nothing to halve", 76, "AirflowException", None),
        ("memory, whatever is halved", 76, "AirflowFailException", None),
    ],
)
def test_what_follows_from_an_exit_code(ends: dict[str, Any], case: str, code: int, raised: str, seconds: int | None) -> None:
    (kind, _, later), told, *_ = ends[case]
    assert (kind, later) == (raised, seconds)
    assert told == {"sentence": "because", "exit_code": code}


def test_s3_out_of_reach_takes_no_try_at_first(ends: dict[str, Any]) -> None:
    assert ends["S3 is away"] == "AirflowRescheduleException"
    assert ends["S3 is away for long"] == "EndpointConnectionError"


def test_the_sentence_is_in_airflows_error(ends: dict[str, Any]) -> None:
    assert ends["bad input"][0][1] == "depth ended with 2: because"


def test_out_of_memory_is_counted_in_s3_and_told_to_the_next_try(ends: dict[str, Any]) -> None:
    assert [(ended[0], halvings, count) for ended, _, halvings, count in ends["memory"]] == [
        ("AirflowRescheduleException", None, 1),
        ("AirflowRescheduleException", 1, 2),
    ]
    assert ends["memory, and nothing to halve"][3] == 1, "a mapped task has a count of its own"


def test_processes_are_handed_on(in_airflow: Callable[..., Any], tmp_path: Path) -> None:
    script = """
    import process
    found = [process.ProcessPhase(task_id=name, phase=name).command(context(name)) for name in ("finetune", "depth")]
    print(json.dumps([one[4:] for one in found]))
    """
    path = tmp_path / "settings.json"
    path.write_text('{"phases": {"finetune": {"processes": 2}}}')
    results = "s3://effir/runs/manual__2026-10-01T00:00:00+00:00/results"
    assert in_airflow(script, EFFIR_RUNNER_SETTINGS=str(path)) == [
        ["--result", f"{results}/finetune.json", "--processes", "2"],
        ["--result", f"{results}/depth.json"],
    ]


def test_a_phase_that_the_spec_does_not_ask_for_is_skipped(in_airflow: Callable[..., Any]) -> None:
    script = """
    import launch

    def called(**where):
        try:
            return launch.Phase(task_id="depth", phase="depth", where=where).call(context())["spec"]
        except Exception as error:
            return [type(error).__name__, str(error)]

    print(json.dumps([called(seed=7), called(seed=8), called()]))
    """
    assert in_airflow(script) == [{"seed": 7}, ["AirflowSkipException", "not needed: seed is 7"], {"seed": 7}]


def test_what_an_input_stands_for(in_airflow: Callable[..., Any]) -> None:
    script = """
    import launch
    prepared = {"parts": {"base": "s3://b", "seen": "s3://c"}, "manifest": "s3://p", "output": {"collections": {"seen": {}}}}
    begun = {"parts": {}, "manifest": "s3://0", "output": {"champion": None}}
    crowned = {"output": {"champion": {"manifest": "s3://old"}}}
    encoded = [{"manifest": f"s3://{model}", "arguments": {"model": model}} for model in ("base", "candidate")]
    print(json.dumps([
        launch.pick("base", prepared), launch.pick("prepare", prepared), launch.pick("collections", prepared), launch.pick("base", "s3://x"),
        launch.pick("champion", begun), launch.pick("champion", crowned), launch.pick("encodes", encoded),
        launch.pick("encodes", encoded, "candidate"), launch.pick("collections", ["s3://c"]),
        launch.pick("importance", [None, {"parts": {}, "manifest": "s3://i"}]), launch.pick("importance", [None, None]),
    ]))
    """
    assert in_airflow(script) == [
        "s3://b", "s3://p", ["s3://c"], "s3://x", None, "s3://old", ["s3://base", "s3://candidate"], ["s3://candidate"],
        ["s3://c"], "s3://i", None,
    ]  # fmt: skip
