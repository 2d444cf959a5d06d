import json
from collections.abc import Callable
from typing import Any

import pytest

from .fake_kubernetes import Cluster, End

SETTINGS = {"image": "effir-task:0.1.0", "phases": {"finetune": {"nodes": 2, "processes": 4}}}
LOST = End(1, log="effir: connection closed by peer\n", seconds=2)
CASES = {
    "done": ([End(), End()], [0, ""]),
    "done, whatever the others say": ([End(), End(1)], [0, ""]),
    "the other ran out of memory": ([LOST, End(137, reason="OOMKilled", seconds=3)], [76, "the container ran out of memory"]),
    "the other was stopped": ([LOST, End(75, log="effir: stopped\n", seconds=1)], [75, "stopped"]),
    "the other failed first": ([LOST, End(1, log="effir: no\n", seconds=1)], [1, "no"]),
    "the first failed first": ([LOST, End(75, seconds=4)], [1, "connection closed by peer"]),
    "bad input": ([End(2, log="effir: k is 40\n", seconds=3), End(1, seconds=2)], [2, "k is 40"]),
    "the first is gone": ([End(gone=True), End(75, log="effir: stopped\n")], [75, "stopped"]),
    "refused": ([End(refused="exceeded quota")], [1, "Kubernetes answered 403 Forbidden: exceeded quota"]),
}
SCRIPT = """
found = {case: follow("finetune") for case in json.loads(os.environ["CASES"])}

told = context("finetune")
task = pod.PodPhase(task_id="finetune", phase="finetune")
try:
    task.launch(task.command(told), told)
except TaskDeferred:
    told["ti"].try_number = 2
found["lost"] = follow("finetune", told)

try:
    task.launch(task.command(told), told)
except TaskDeferred:
    task.on_kill()
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def ended(in_cluster: Callable[..., Any]) -> tuple[dict[str, Any], Cluster]:
    """How Jobs ended, and what was asked of the fake."""
    ends = [end for ends, _ in CASES.values() for end in ends]
    return in_cluster(SCRIPT, SETTINGS, [*ends, End(1, log="effir: found again\n")], CASES=json.dumps(list(CASES)))


@pytest.mark.parametrize("case", CASES)
def test_how_a_job_ended(ended: tuple[dict[str, Any], Cluster], case: str) -> None:
    assert ended[0][case] == CASES[case][1]


def test_the_ranks_meet_at_the_pod_of_index_0(ended: tuple[dict[str, Any], Cluster]) -> None:
    job = ended[1].made[0]
    name, spec = job["metadata"]["name"], job["spec"]
    assert spec["template"]["spec"]["subdomain"] == "effir-training"
    (container,) = spec["template"]["spec"]["containers"]
    meeting = ["--rendezvous", f"{name}-0.effir-training.effir:29400"]
    assert container["args"][6:] == ["--processes", "4", "--nodes", "2", *meeting]
    assert (spec["completionMode"], spec["completions"], spec["parallelism"], spec["backoffLimit"]) == ("Indexed", 2, 2, 0)
    assert len(f"{name}-0") < 64, "a host name"


def test_a_lost_execution_leaves_its_job_to_the_next_try(ended: tuple[dict[str, Any], Cluster]) -> None:
    assert ended[0]["lost"] == [1, "found again"]
    assert len(ended[1].made) == len(CASES) + 1, "one for each case but the refused one, one that was lost and found, one that was killed"


def test_jobs_are_deleted(ended: tuple[dict[str, Any], Cluster]) -> None:
    assert ended[1].jobs == {} and ended[1].pods == {}
