"""What the approval operator asks and what it makes of the answer; tests/e2e has the real Airflow."""

from collections.abc import Callable
from typing import Any

import pytest

from effir.services.store import Store

ASK = """
import approval, airflow.providers.standard.operators.hitl as hitl
from airflow.sdk.exceptions import TaskAwaitingInput

asked = {}
hitl.upsert_hitl_detail = lambda **told: asked.update(told)  # stands in for Airflow's api-server

def ask(spec, judged, candidate="new"):
    begun = {"output": {"spec": {"name": "search", "approval": True, "approval_hours": 24} | spec}}
    judged = {"manifest": os.environ["EFFIR_STORE"] + "/artifacts/gate/1/manifest.json", "output": judged}
    task = approval.Approval(task_id="approval", begun=begun, judged=judged, candidate={"digest": candidate})
    told = context("approval")
    told["ti"].id = told["task_instance"] = types.SimpleNamespace(id="1")
    asked.clear()
    try:
        task.execute(told)
    except TaskAwaitingInput as waiting:
        return ["asked", waiting.timeout.total_seconds(), {name: asked[name] for name in ("subject", "body", "defaults", "options")}]
    except Exception as error:
        return [type(error).__name__, str(error)]

def answer(option, user):
    task = approval.Approval(task_id="approval", begun=None, judged=None, candidate=None)
    at = datetime.datetime.now(datetime.UTC)
    event = {"chosen_options": [option], "params_input": {}, "responded_at": at, "responded_by_user": user, "timedout": user is None}
    return task.execute_complete(context("approval"), event)

promoted, ada = {"verdict": "promoted", "champion": {"digest": "old"}}, {"id": "1", "name": "ada"}
print(json.dumps({
    "asked": ask({}, promoted),
    "soon": ask({"approval_hours": 0.5}, promoted | {"champion": None}),
    "not asked for": ask({"approval": False}, promoted),
    "rejected": ask({}, promoted | {"verdict": "rejected"}),
    "the champion already": ask({}, promoted, "old"),
    "yes": answer("Approve", ada), "no": answer("Reject", ada), "nothing": answer("Reject", None),
}))
"""


@pytest.fixture(scope="module")
def told(in_airflow: Callable[..., Any], airflow_s3: Callable[[], dict[str, str]]) -> dict[str, Any]:
    environment = airflow_s3()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        store = Store()
        bucket, _, root = store.root.removeprefix("s3://").partition("/")
        store.client.put_object(Bucket=bucket, Key=f"{root}/artifacts/gate/1/verdict.md", Body=b"# Promoted\n\n- {{ all }} rules hold\n")
    return in_airflow(ASK, **environment)


def test_a_person_is_asked_with_the_verdict_as_text_and_silence_is_a_no(told: dict[str, Any]) -> None:
    asked = {
        "subject": "Crown this candidate as champion of search?",
        "body": "# Promoted\n\n- {{ all }} rules hold\n",
        "defaults": ["Reject"],
        "options": ["Approve", "Reject"],
    }
    assert told["asked"] == ["asked", 24 * 3600, asked]
    assert told["soon"] == ["asked", 1800, asked]


@pytest.mark.parametrize("case", ["not asked for", "rejected", "the champion already"])
def test_nobody_is_asked_needlessly(told: dict[str, Any], case: str) -> None:
    assert told[case][0] == "AirflowSkipException"


def test_promote_is_told_who_said_what(told: dict[str, Any]) -> None:
    assert told["yes"] == {"approved": True, "by": "ada"}
    assert told["no"] == {"approved": False, "by": "ada"}
    assert told["nothing"] == {"approved": False, "by": None}
