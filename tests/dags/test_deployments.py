import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

SCRIPT = """
import deployments, os, pathlib
told = {}
for name, text in json.loads(os.environ["TEXTS"]).items():
    path = pathlib.Path(os.environ["FOLDER"], name + ".json")
    path.write_text(text)
    os.environ["EFFIR_DEPLOYMENTS"] = str(path)
    right, wrong = deployments.deployments()
    bag = DagBag(sys.argv[1])
    told[name] = {"right": [one.name for one in right], "wrong": wrong, "dags": sorted(bag.dags), "errors": bag.import_errors}
os.environ["EFFIR_DEPLOYMENTS"] = str(pathlib.Path(os.environ["FOLDER"], "mixed.json"))
os.environ["AIRFLOW__CORE__EXECUTOR"] = "airflow.providers.cncf.kubernetes.executors.kubernetes_executor.KubernetesExecutor,LocalExecutor"
told["pods"] = {"right": [[one.name, one.deadline_hours] for one in deployments.deployments()[0]], "wrong": deployments.deployments()[1]}
print(json.dumps(told))
"""
RIGHT = [
    {"name": "nightly", "profile": "demo", "cron": "0 3 * * *", "overrides": {"lora_rank": 8}, "deadline_hours": 6},
    {"name": "on-data.2", "profile": "demo", "assets": ["effir/training-data", "warehouse/clicks"]},
    {"name": "daily", "profile": "demo", "cron": "@daily", "overrides": {}},
]
START = {"cron": "@daily"}
WRONG = [
    ({"profile": "demo"} | START, "name must be"),
    ({"name": "a b", "profile": "demo"} | START, "(a b), name must be"),
    ({"name": "../x", "profile": "demo"} | START, "(../x), name must be"),
    ({"name": "--x", "profile": "demo"} | START, "(--x), name must be"),
    ({"name": "{{ 7*7 }}", "profile": "demo"} | START, "({{ 7*7 }}), name must be"),
    ({"name": "x\n", "profile": "demo"} | START, "name must be"),
    ({"name": "nightly", "profile": "demo"} | START, "(nightly), name is the name of an entry above"),
    ({"name": "x"} | START, "(x), profile is wrong"),
    ({"name": "x", "profile": "absent"} | START, "(x), profile is wrong: 'absent' is not one of"),
    ({"name": "x", "profile": "demo"}, "(x), cron or assets must say when it runs"),
    ({"name": "x", "profile": "demo", "assets": ["y"]} | START, "(x), cron or assets must say when it runs"),
    ({"name": "x", "profile": "demo", "cron": "never"}, '(x), cron is "never", must be five fields'),
    ({"name": "x", "profile": "demo", "cron": "61 3 * * *"}, "(x), cron is"),
    ({"name": "x", "profile": "demo", "cron": "@once"}, "(x), cron is"),
    ({"name": "x", "profile": "demo", "cron": None}, "(x), cron is null"),
    ({"name": "x", "profile": "demo", "assets": "effir/base-model"}, "(x), assets is"),
    ({"name": "x", "profile": "demo", "assets": []}, "(x), assets is []"),
    ({"name": "x", "profile": "demo", "assets": ["effir/base_model"]}, "(x), assets names effir/base_model"),
    ({"name": "x", "profile": "demo", "assets": ["effir/champion"]}, "(x), assets names effir/champion"),
    ({"name": "x", "profile": "demo", "overrides": {"lora_rnak": 8}} | START, "(x), overrides.lora_rnak is no field of the spec"),
    ({"name": "x", "profile": "demo", "overrides": {"profile": "demo"}} | START, "(x), overrides.profile is no field of the spec"),
    (
        {"name": "x", "profile": "demo", "overrides": {"lora_rank": 0}} | START,
        "(x), overrides.lora_rank is wrong: 0 is less than the minimum",
    ),
    ({"name": "x", "profile": "demo", "overrides": {"pooling": "max"}} | START, "(x), overrides.pooling is wrong: 'max' is not one of"),
    ({"name": "x", "profile": "demo", "overrides": [1]} | START, "(x), overrides is [1]"),
    ({"name": "x", "profile": "demo", "deadline_hours": 0} | START, "(x), deadline_hours is 0"),
    ({"name": "x", "profile": "demo", "deadline_hours": True} | START, "(x), deadline_hours is true"),
    ({"name": "x", "profile": "demo", "deadline_hours": float("inf")} | START, "(x), deadline_hours is Infinity"),
    ({"name": "x", "profile": "demo", "crno": "@daily"} | START, "(x), crno is no field of an entry"),
    (7, "which is 7"),
]


@pytest.fixture(scope="module")
def read(parse_dags: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What Airflow makes of each text of a deployments.json: mixed, comma and object are at fault, shipped is ours."""
    texts = {
        "mixed": json.dumps(RIGHT + [entry for entry, _ in WRONG]), "comma": '[{"name": "x",}]', "object": "{}",
        "shipped": (Path(__file__).parents[2] / "dags" / "deployments.json").read_text(),
    }  # fmt: skip
    return parse_dags(SCRIPT, TEXTS=json.dumps(texts), FOLDER=str(tmp_path_factory.mktemp("deployments")))


@pytest.fixture(scope="module")
def told(read: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """What comes of a file with right and wrong entries."""
    return read["mixed"]


def test_wrong_entries_leave_the_right_ones_in_place(told: dict[str, Any]) -> None:
    names = [entry["name"] for entry in RIGHT]
    assert told["right"] == names
    assert told["dags"] == sorted(
        ["effir_compress", "effir_frontier", "effir_rollback", "effir_verify", *(f"effir_compress_{name}" for name in names)]
    )


@pytest.mark.parametrize("number", range(len(WRONG)), ids=lambda number: WRONG[number][1])
def test_a_wrong_entry_is_told_of_once_by_place_and_field(told: dict[str, Any], number: int) -> None:
    (sentence,) = [one for one in told["wrong"] if f"mixed.json, entry {number + 1 + len(RIGHT)}" in one]
    assert WRONG[number][1] in sentence


def test_airflow_shows_an_import_error_of_the_check_alone(told: dict[str, Any]) -> None:
    ((path, shown),) = told["errors"].items()
    assert Path(path).name == "deployments_check.py"
    assert all(sentence in shown for sentence in told["wrong"])


@pytest.mark.parametrize(("name", "reason"), [("comma", "cannot be read as JSON"), ("object", "must hold a list of entries")])
def test_a_file_that_is_no_list_leaves_the_dag_itself(read: dict[str, dict[str, Any]], name: str, reason: str) -> None:
    assert read[name]["dags"] == ["effir_compress", "effir_frontier", "effir_rollback"]
    (sentence,) = read[name]["wrong"]
    assert reason in sentence
    assert reason in "".join(read[name]["errors"].values())


def test_the_file_as_it_is_shipped_is_right(read: dict[str, dict[str, Any]]) -> None:
    assert read["shipped"]["wrong"] == []
    assert read["shipped"]["errors"] == {}


def test_a_deadline_is_refused_where_it_would_stop_the_scheduler(read: dict[str, dict[str, Any]]) -> None:
    assert read["pods"]["right"] == [["on-data.2", None], ["daily", None], ["nightly", None]], "the second of that name, which has none"
    (sentence,) = [one for one in read["pods"]["wrong"] if "entry 1 (nightly), deadline_hours needs LocalExecutor or CeleryExecutor" in one]
    assert "KubernetesExecutor" in sentence
