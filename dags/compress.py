"""
# Compress a retriever, judge it, and crown it only if it earned it

**Trigger**: choose a profile, change what you like. A field left empty keeps the profile's value; each field says what it is for.

What then happens, a task each:

1. `begin` checks what was asked and opens a record in MLflow; `prepare` fetches base model, training data and test collections.
2. `teacher` scores the training pairs. `importance`, `depth`, `slim` and `narrow` decide what is cut out of the model; where the spec
   says `importance_of = reference`, `importance_of_reference` stands in for the first of them, once there is one.
3. `finetune_reference` trains the model as it was, `finetune_candidate` the one that was cut, as long and on the same data.
4. `encode`, `evaluate` and `speed` measure both beside the untrained base, BM25, MiniLM and the champion; `verify` reloads the candidate.
5. `gate` gives the verdict, **promoted** or **rejected**, every rule with its bound. `approval` asks a person, where the spec wants that.
6. `promote` registers the candidate and crowns it if it passed; `announce` emits the asset `effir/champion`; `report` makes the page.

A run ends green with either verdict, which is its **note**. Finished work is found by its digest and not repeated: a run that is killed or
triggered again redoes only what is missing. Links in each task's *Details* lead to its MLflow run, its artifact and the report.

`deployments.json` gives more DAGs like this one, on a schedule or on assets: `{name, profile, cron | assets, overrides?,
deadline_hours?}`. A wrong entry is left out, and shows as an import error of `deployments_check.py`.
"""

import datetime
from typing import Any

from airflow.sdk import DAG, Asset, AssetAny, Metadata, dag, task
from airflow.sdk.exceptions import AirflowSkipException

import alerts
from approval import Approval
from assets import BASE, CANDIDATE, CHAMPION, TRAINING
from deployments import Deployment, deployments
from form import params
from launch import phase
from pools import computing, mapped_computing, shards_at_once

APPROVAL = "Asks a person, with the verdict as text, where the spec wants approval; otherwise skipped."
STARTED = ("manual", "scheduled", "asset_triggered", "operator_triggered")
LABEL = "{{ task.arguments['model'] }} · {{ task.arguments['collection'] }} · {{ task.arguments['shard'] }}"


@task
def encode_calls(begun: Any, prepared: Any, reference: Any, candidate: Any) -> list[dict[str, Any]]:
    """What is to be encoded: every model, collection and shard. The champion too, where it is another model."""
    models = {"base": prepared["parts"]["base"], "minilm": None, "reference": reference["manifest"], "candidate": candidate["manifest"]}
    champion = begun["output"]["champion"]
    if champion and champion["digest"] != candidate["digest"]:
        models["champion"] = champion["manifest"]
    return [
        {
            "inputs": {"collection": prepared["parts"][collection], **({"model": manifest} if manifest else {})},
            "arguments": {"model": model, "collection": collection, "shard": shard},
        }
        for model, manifest in models.items()
        for collection, told in prepared["output"]["collections"].items()
        for shard in range(told["shards"])
    ]


@task(outlets=[CHAMPION])
def announce(begun: Any, promoted: Any) -> Any:
    """Tells whoever waits for `effir/champion`; skipped where the champion is the same as before."""
    model, before = promoted["output"]["model"], begun["output"]["champion"] or {}
    if "champion" not in model["aliases"] or model["version"] == before.get("version"):
        raise AirflowSkipException("no new champion")
    yield Metadata(CHAMPION, model)


def compress(
    dag_id: str, schedule: Any = None, profile: str = "demo", overrides: dict[str, Any] | None = None, hours: float | None = None
) -> DAG:
    """The DAG, on one screen. hours: when somebody is told that a run is not over yet."""

    @dag(
        dag_id=dag_id, schedule=schedule, params=params(profile, overrides), doc_md=__doc__, tags=["effir"],
        catchup=False, max_active_runs=1, allowed_run_types=STARTED,
        default_args={"retries": 2, "retry_delay": datetime.timedelta(seconds=10)},
        on_failure_callback=alerts.failed, deadline=alerts.deadline(hours),
    )  # fmt: skip
    def flow() -> None:
        begun = phase("begin")
        prepared = computing("prepare", inlets=[TRAINING, BASE])
        begun >> prepared
        base, training, collections = {"base": prepared}, {"training": prepared}, {"collections": prepared}
        data = training | {"calibration": prepared}

        taught = computing("teacher", inputs=training)
        lesson = base | training | {"teacher": taught}
        reference = computing("finetune", task_id="finetune_reference", inputs=lesson, arguments={"model": "reference"})

        of_base = computing("importance", inputs=base | data, where={"importance_of": "base"})
        retriever = {"base": reference}
        of_reference = computing(
            "importance", task_id="importance_of_reference", inputs=retriever | data, where={"importance_of": "reference"}
        )
        scored, either = {"importance": [of_base, of_reference]}, {"trigger_rule": "none_failed_min_one_success"}
        dropped = computing("depth", inputs=base | scored, **either)
        slimmed = computing("slim", inputs=base | data | {"cut": dropped})
        healed = {"base": slimmed}
        narrowed = computing("narrow", inputs=healed | scored | {"cut": dropped, "slim": slimmed}, **either)

        heal = lesson | healed | {"cut": narrowed, "reference": reference}
        candidate = computing("finetune", task_id="finetune_candidate", inputs=heal, arguments={"model": "candidate"}, outlets=[CANDIDATE])
        models = {"reference": reference, "candidate": candidate}

        calls = encode_calls(begun, prepared, reference, candidate)
        encoded = {"encodes": mapped_computing("encode", calls, map_index_template=LABEL, max_active_tis_per_dag=shards_at_once())}
        evaluated = phase("evaluate", inputs=encoded | collections)
        timed = computing("speed", inputs=models | collections)
        verified = computing("verify", inputs=encoded | collections | {"candidate": candidate}, only="candidate")

        evidence = models | {"evaluate": evaluated, "speed": timed, "verify": verified}
        judged = computing("gate", inputs=evidence | {"champion": begun})
        answer = Approval(task_id="approval", begun=begun, judged=judged, candidate=candidate, doc_md=APPROVAL).output
        made = {"prepare": prepared, "teacher": taught} | scored | {"depth": dropped, "slim": slimmed, "narrow": narrowed, "cut": narrowed}
        crowning = made | evidence | {"gate": judged}
        promoted = phase("promote", inputs=crowning, arguments={"approval": answer}, **either)
        announce(begun, promoted)
        phase("report", inputs=crowning | encoded | {"promote": promoted}, summarise=True, **either)

    return flow()


def when(one: Deployment) -> Any:
    """The schedule of a deployment: its cron expression, or a new event of any of its assets, ours or another DAG's."""
    ours = {each.name: each for each in (BASE, TRAINING)}
    return one.cron or AssetAny(*(ours.get(name) or Asset.ref(name=name) for name in one.assets))


compress("effir_compress")
for one in deployments()[0]:
    compress(f"effir_compress_{one.name}", when(one), one.profile, one.overrides, one.deadline_hours)
