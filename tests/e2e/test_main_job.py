"""The whole job on a tiny model, through real S3, MLflow and Airflow, as a person starts it."""

import json
import os
import subprocess
import sys
from contextlib import suppress
from typing import Any
from urllib.parse import quote

import psutil
import pytest
import requests

from effir.services.store import Store

from .runs import effir, run

FIELDS = {
    "dag_run_id", "spec_digest", "verdict", "reasons", "model", "params", "speedup", "metric", "quality", "mean", "phases", "report",
}  # fmt: skip
COMPUTING = {"prepare", "teacher", "importance", "depth", "slim", "narrow", "finetune", "encode", "evaluate", "speed", "verify"}


@pytest.mark.timeout(1800)
def test_a_run_computes_everything(first: dict[str, Any], stack: Any) -> None:
    assert set(first) == FIELDS
    assert first["metric"] == "ndcg_at_10"
    assert {phase["name"].split()[0] for phase in first["phases"]} == COMPUTING | {"begin", "gate", "promote", "report"}
    assert len([phase for phase in first["phases"] if phase["name"].startswith("encode")]) == 4 * 4
    assert sum(phase["forward_passes"] for phase in first["phases"]) > 50
    assert first["params"]["candidate"] < first["params"]["reference"]
    (found,) = first["quality"].values()
    assert found["difference"] == pytest.approx(found["candidate"] - found["reference"])
    assert found["interval"][0] <= found["difference"] <= found["interval"][1]
    report = Store().get_bytes(first["report"])
    assert first["dag_run_id"].encode() in report


def test_a_run_says_in_airflow_what_came_of_it(first: dict[str, Any], stack: Any) -> None:
    run = stack.airflow.run("effir_compress", first["dag_run_id"])
    assert run["note"].startswith(f"**Rejected, tiny version {first['model']['version']}: ")
    assert first["reasons"][0] in run["note"]
    links = {task: linked(stack, first["dag_run_id"], task) for task in ("begin", "slim", "gate", "report")}
    page = links["begin"]["MLflow"]
    assert links["slim"]["MLflow"].rpartition("/")[0] == page.rpartition("/")[0] and links["slim"]["MLflow"] != page
    assert links["report"]["Report"] == f"{page}/artifacts/report.html"
    for task in ("slim", "gate"):
        assert requests.get(links[task]["S3 artifact"], timeout=30).ok
    log = log_of(stack, first["dag_run_id"], "slim")
    assert log.index("About to do: How much each neuron") < log.index("slim: done, in ")
    assert "artifact: s3://effir/artifacts/slim/" in log


def linked(stack: Any, run_id: str, task: str) -> dict[str, str]:
    """A task's extra links."""
    return stack.airflow._call("GET", f"dags/effir_compress/dagRuns/{quote(run_id)}/taskInstances/{task}/links")["extra_links"]


def log_of(stack: Any, run_id: str, task: str) -> str:
    """A task's log."""
    folder = stack.home / f"stack/airflow/logs/dag_id=effir_compress/run_id={run_id}/task_id={task}"
    return "".join(path.read_text() for path in folder.glob("*.log"))


def test_a_rejected_run_is_green_and_crowns_nobody(first: dict[str, Any], stack: Any) -> None:
    assert first["verdict"] == "rejected"
    assert any("1,000" in reason or "1000" in reason for reason in first["reasons"])
    assert first["model"]["aliases"] == ["challenger"]
    assert stack.airflow.run("effir_compress", first["dag_run_id"])["state"] == "success"


@pytest.mark.timeout(600)
def test_the_reference_s_sub_layers_are_scored_where_the_spec_says_so(
    first: dict[str, Any], stack: Any, overrides: dict[str, Any], eventually: Any
) -> None:
    told = {name: value for name, value in overrides.items() if value is not None}
    run_id = stack.airflow.trigger("effir_compress", {"profile": "demo", **told, "importance_of": "reference"})

    def ended() -> dict[str, str]:
        found = {task["task_id"]: task["state"] for task in stack.airflow.tasks("effir_compress", run_id)}
        return found if found["narrow"] in {"success", "failed", "skipped", "upstream_failed"} else {}

    states = eventually(ended, seconds=400)
    path = f"dags/effir_compress/dagRuns/{quote(run_id)}"
    stack.airflow._call("PATCH", path, json={"state": "failed"})
    names = ("importance", "importance_of_reference", "depth", "narrow")
    assert {name: states[name] for name in names} == dict.fromkeys(names, "success") | {"importance": "skipped"}
    scored = stack.airflow.xcom("effir_compress", run_id, "importance_of_reference")["manifest"]
    reference = stack.airflow.xcom("effir_compress", run_id, "finetune_reference")["manifest"]
    assert Store().get_json(scored)["key"]["inputs"]["base"] in reference
    first_states = {task["task_id"]: task["state"] for task in stack.airflow.tasks("effir_compress", first["dag_run_id"])}
    assert (first_states["importance"], first_states["importance_of_reference"]) == ("success", "skipped")


@pytest.mark.timeout(1800)
def test_what_was_done_before_is_found(second: dict[str, Any], stack: Any) -> None:
    assert sum(phase["forward_passes"] for phase in second["phases"]) == 0
    computing = [phase for phase in second["phases"] if phase["name"].split()[0] in COMPUTING]
    assert len(computing) == 4 * 4 + 11
    assert all(phase["cached"] for phase in computing)
    assert Store().get_bytes(second["report"]) == (stack.home / "last-report.html").read_bytes()


def test_a_promoted_model_is_the_champion(second: dict[str, Any], stack: Any) -> None:
    assert second["verdict"] == "promoted"
    assert second["reasons"][-1] == "approved by admin"
    assert second["model"] == {"name": "tiny", "version": "1", "aliases": ["challenger", "champion"]}
    assert [told["version"] for told in stack.events("effir/champion")] == ["1"]


def test_a_client_ranks_with_what_env_prints_alone(second: dict[str, Any], stack: Any) -> None:
    lines = [line.removeprefix("export ").partition("=") for line in effir("env").stdout.splitlines()]
    settings = {name: value.strip("'") for name, _, value in lines}
    plain = {name: os.environ[name] for name in ("PATH", "PYTHONPATH", "HOME") if name in os.environ}
    script = """
import mlflow, numpy
model = mlflow.pyfunc.load_model("models:/tiny@champion")
query, same, other = (numpy.asarray(one) for one in model.predict(["old river", "The old river near the town.", "A violin is bright."]))
print(float(query @ same), float(query @ other))
"""
    done = subprocess.run([sys.executable, "-c", script], env=plain | settings, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    same, other = map(float, done.stdout.split())
    assert same > other


def test_the_champion_encodes_and_verifies(second: dict[str, Any], stack: Any) -> None:
    done = effir("encode", "models:/tiny@champion", text="the old river\na violin\n")
    vectors = [json.loads(line) for line in done.stdout.splitlines()]
    assert [len(vector) for vector in vectors] == [64, 64], done.stderr[-2000:]
    assert sum(value**2 for value in vectors[0]) == pytest.approx(1, abs=1e-3)
    verified = effir("verify", "models:/tiny/1")
    assert verified.returncode == 0, verified.stderr[-2000:]
    assert max(json.loads(verified.stdout).values()) < 1e-2


class Encodes:
    """The tasks that encoded the candidate's shards in a run, and what they made."""

    def __init__(self, stack: Any, run_id: str) -> None:
        self.stack, self.run_id, self.store = stack, run_id, Store()
        self.base = f"{self.store.root}/runs/{run_id}"
        count = sum(task["task_id"] == "encode" for task in self.tasks())
        results = {number: self.store.get_json(f"{self.base}/results/encode-{number}.json") for number in range(count)}
        mine = {number: one for number, one in results.items() if one["arguments"]["model"] == "candidate"}
        self.index = {one["arguments"]["shard"]: number for number, one in mine.items()}
        self.manifest = {one["arguments"]["shard"]: one["manifest"] for one in mine.values()}

    def tasks(self) -> list[dict[str, Any]]:
        return self.stack.airflow.tasks("effir_compress", self.run_id)

    def tries(self) -> dict[int, int]:
        """Map index → how often it was tried."""
        return {task["map_index"]: task["try_number"] for task in self.tasks() if task["task_id"] == "encode"}

    def evaluated(self) -> tuple[bool, bytes, bytes]:
        """Whether evaluate was served from the cache, and its metrics and scores."""
        result = self.store.get_json(f"{self.base}/results/evaluate.json")
        return result["cached"], *(
            self.store.get_bytes(result["manifest"].replace("manifest.json", name)) for name in ("metrics.json", "scores.parquet")
        )

    def again(self) -> None:
        """Forget the candidate's vectors and the evaluation, and have Airflow do these tasks anew."""
        evaluated = self.store.get_json(f"{self.base}/results/evaluate.json")["manifest"]
        self.store.delete([*self.manifest.values(), evaluated])
        tasks = ["evaluate", *(["encode", number] for number in self.index.values())]
        body = {"dry_run": False, "only_failed": False, "dag_run_id": self.run_id, "task_ids": tasks}
        self.stack.airflow._call("POST", "dags/effir_compress/clearTaskInstances", json=body)

    def process(self, shard: int) -> psutil.Process | None:
        """This stack's process that encodes a shard of the candidate's, once torch is loaded."""
        for one in psutil.process_iter():
            with suppress(psutil.Error):
                command = one.cmdline()
                ours = {"phase", "encode", f"{self.base}/calls/encode-{self.index[shard]}.json"} <= set(command)
                if ours and one.environ().get("EFFIR_STACK") == str(self.stack.home / "stack"):
                    return one if any("libtorch" in mapped.path for mapped in one.memory_maps()) else None
        return None


@pytest.mark.timeout(600)
def test_of_four_shards_the_one_that_was_killed_is_redone_alone(second: dict[str, Any], stack: Any, eventually: Any) -> None:
    encodes = Encodes(stack, second["dag_run_id"])
    assert sorted(encodes.index) == [0, 1, 2, 3]
    before, undisturbed = encodes.tries(), encodes.evaluated()
    encodes.again()
    process = eventually(lambda: encodes.process(2), seconds=300, every=0.02)
    process.kill()
    made = {shard: Store().get_bytes(uri) for shard, uri in encodes.manifest.items() if Store().exists(uri)}
    assert 2 not in made, "it was done before it could be killed"

    eventually(lambda: stack.airflow.run("effir_compress", encodes.run_id)["state"] == "success", seconds=300)
    tried = {number: tries - before[number] for number, tries in encodes.tries().items()}
    assert {shard: tried[number] for shard, number in encodes.index.items()} == {0: 1, 1: 1, 2: 1, 3: 1}, "a kill takes no try"
    logs = stack.home / f"stack/airflow/logs/dag_id=effir_compress/run_id={encodes.run_id}/task_id=encode"
    said = {shard: "".join(path.read_text() for path in (logs / f"map_index={n}").glob("*.log")) for shard, n in encodes.index.items()}
    assert {shard for shard, text in said.items() if "the process was killed (SIGKILL); it goes on" in text} == {2}
    assert all(tries == 0 for number, tries in tried.items() if number not in encodes.index.values())
    assert made == {shard: Store().get_bytes(encodes.manifest[shard]) for shard in made}
    assert Store().get_json(encodes.manifest[2])["numbers"] == {"documents": 13, "queries": 0}
    assert encodes.evaluated() == (False, *undisturbed[1:])


def test_bad_input_found_by_a_phase_ends_with_its_sentence(stack: Any, overrides: dict[str, Any]) -> None:
    done = run(overrides, base_model="/absent/model")
    assert done.returncode == 2
    (sentence,) = [line for line in done.stderr.splitlines() if line.startswith("effir: ")]
    assert "/absent/model" in sentence
    assert "Traceback" not in done.stderr
    tasks = stack.airflow.tasks("effir_compress", stack.airflow.runs("effir_compress")[0]["dag_run_id"])
    assert {task["task_id"]: task["try_number"] for task in tasks if task["state"] == "failed"} == {"prepare": 1}
    note = stack.airflow.runs("effir_compress")[0]["note"]
    assert note.startswith("**Failed in prepare**: ") and "/absent/model" in note
