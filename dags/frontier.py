"""
# Many variants of one model, measured side by side

Cuts a language model in many ways, fine-tunes every cut like the full-size reference, and draws quality against measured speed,
with intervals. What the variants share is computed once. A variant that fails does not sink the others; killed and triggered
again, the DAG redoes only what was unfinished.

**Trigger**: choose a profile, write the variants, separated by commas, and the seeds. A variant is a name of the paper (8A, 16M,
last8B, 16M8A, 16M-30%, -30%), perhaps with settings of its own: `16M-30%:neuron_score=magnitude:regression_weight=5`.
"""

import datetime
from typing import Any

from airflow.sdk import DAG, Param, dag, task, task_group

import alerts
from form import params
from launch import Asked, phase
from pools import computing, mapped_computing

ARM = "{{ task.caption['arm'] }} · seed {{ task.caption['seed'] }}"
QUESTION = {
    "variants": Param(
        "8A,8M,last4B,last8B,8M-30%,-30%,last4B-10%,15M", type="string", minLength=1, title="Variants", section="Frontier",
        description_md="What is cut, separated by commas: VARIANT, VARIANT:key=value:key=value, or either with NAME= in front.",
    ),
    "contrasts": Param(
        "", type=["string", "null"], title="Contrasts", section="Frontier",
        description_md="Pairs of variants to compare, separated by commas: `8A vs 8M, last8B vs 8M`.",
    ),
    "seeds": Param("0", type="string", minLength=1, title="Seeds", section="Frontier", description_md="Separated by commas."),
    "study": Param(
        "", type=["string", "null"], title="Study", section="Frontier",
        description_md="A name that `effir study` lists: the page then says what is asked and what the paper has. It chooses no variants.",
    ),
}  # fmt: skip


def made(results: Any) -> dict[int, dict[str, Any]]:
    """Those of a list's executions that succeeded, by their place in it: what one of them was for is all that its failure sinks."""
    return {one["caption"]["place"]: one for one in results or () if one}


@task
def base_calls(begun: Any) -> list[dict[str, Any]]:
    """Every model that a variant starts from, the frontier's own first. The data that each prepares are the same again."""
    return [
        {"spec": one["spec"], "caption": {"arm": one["spec"]["base_model"], "place": place}}
        for place, one in enumerate(begun["output"]["bases"])
    ]


@task
def teacher_calls(begun: Any, prepared: Any) -> list[dict[str, Any]]:
    """Every teacher that a variant asks for."""
    return [
        {"inputs": {"training": prepared["parts"]["training"]}, "spec": one["spec"], "caption": {"place": place}}
        for place, one in enumerate(begun["output"]["teachers"])
    ]


@task(trigger_rule="all_done")
def reference_calls(begun: Any, prepared: Any, taught: Any) -> list[dict[str, Any]]:
    """A full-size reference for every seed and every way of training."""
    said = made(taught)
    return [
        {
            "inputs": {name: prepared["parts"][name] for name in ("base", "training")} | {"teacher": said[one["teacher"]]["manifest"]},
            "spec": one["spec"],
            "caption": one["caption"] | {"place": place},
        }
        for place, one in enumerate(begun["output"]["references"] if begun and prepared else ())
        if one["teacher"] in said
    ]


@task(trigger_rule="all_done")
def score_calls(begun: Any, prepared: Any, bases: Any, references: Any) -> list[dict[str, Any]]:
    """Importance scores, one for each measure that a variant asks for."""
    calls, started, trained = [], made(bases), made(references)
    for place, one in enumerate(begun["output"]["scores"] if begun and prepared else ()):
        shared = {name: prepared["parts"][name] for name in ("calibration", "training")}
        if one["reference"] is None and one["base"] in started:
            base = started[one["base"]]["parts"]["base"]
        elif one["reference"] in trained:
            base = trained[one["reference"]]["manifest"]
        else:
            continue
        calls.append({"inputs": shared | {"base": base}, "spec": one["spec"], "caption": {"place": place}})
    return calls


@task(trigger_rule="all_done")
def landmark_calls(begun: Any, prepared: Any, references: Any) -> list[dict[str, Any]]:
    """What the variants are seen beside: the references, the untrained base, BM25 and MiniLM."""
    if not (begun and prepared):
        return []
    collections = {"collections": [prepared["parts"][name] for name in prepared["output"]["collections"]]}
    models = {"base": {"model": prepared["parts"]["base"]}, "bm25": {}, "minilm": {}}
    calls = [{"inputs": collections | inputs, "arguments": {"model": name}, "caption": {"arm": name}} for name, inputs in models.items()]
    named = begun["output"]["references"]
    return calls + [
        {
            "inputs": collections | {"model": trained["manifest"]},
            "arguments": {"model": "reference"},
            "caption": {"arm": named[place]["name"]} | named[place]["caption"],
        }
        for place, trained in made(references).items()
    ]


@task(trigger_rule="all_done")
def arm_calls(begun: Any, bases: Any, taught: Any, references: Any, scores: Any) -> list[dict[str, Any]]:
    """What each variant starts from. One that needs something that failed is left out."""
    started, said, trained, scored = map(made, (bases, taught, references, scores))
    return [
        {
            "spec": one["spec"],
            "caption": one["caption"],
            "base": started[one["base"]]["parts"]["base"] if one["cut"] == "base" else trained[one["reference"]]["manifest"],
            "teacher": said[one["teacher"]]["manifest"],
            "weights": one["weights"],
            "reference": trained[one["reference"]]["manifest"],
            "scores": scored[one["scores"]]["manifest"],
        }
        for one in (begun["output"]["arms"] if begun else ())
        if one["base"] in started and one["teacher"] in said and one["reference"] in trained and one["scores"] in scored
    ]


def frontier() -> DAG:
    """The DAG."""

    @dag(
        dag_id="effir_frontier", schedule=None, params=QUESTION | params(), doc_md=__doc__, tags=["effir"],
        catchup=False, max_active_runs=1, allowed_run_types=("manual", "operator_triggered"),
        default_args={"retries": 2, "retry_delay": datetime.timedelta(seconds=10)},
        on_failure_callback=alerts.failed,
    )  # fmt: skip
    def flow() -> None:
        begun = phase("arms", task_id="begin", arguments={name: Asked(name) for name in QUESTION})
        prepared = computing("prepare")
        begun >> prepared
        training, calibration, collections = {"training": prepared}, {"calibration": prepared}, {"collections": prepared}
        bases = mapped_computing("prepare", base_calls(begun), task_id="bases")
        prepared >> bases
        taught = mapped_computing("teacher", teacher_calls(begun, prepared))

        calls = reference_calls(begun, prepared, taught)
        references = mapped_computing("finetune", calls, task_id="references", arguments={"model": "reference"})
        scores = mapped_computing("importance", score_calls(begun, prepared, bases, references))
        landmarks = mapped_computing("assess", landmark_calls(begun, prepared, references), task_id="landmarks")

        @task_group(group_id="arm")
        def arm(spec: Any, caption: Any, base: Any, teacher: Any, weights: Any, reference: Any, scores: Any) -> Any:
            common = {"spec": spec, "caption": caption, "map_index_template": ARM}
            start = {"base": base}
            dropped = computing("depth", inputs=start | {"importance": scores}, **common)
            slimmed = computing("slim", inputs=start | training | calibration | {"cut": dropped}, **common)
            healed = {"base": slimmed}
            narrowed = computing("narrow", inputs=healed | {"importance": scores, "cut": dropped, "slim": slimmed}, **common)
            heal = healed | training | {"teacher": teacher, "cut": narrowed, "reference": reference}
            candidate = computing("finetune", inputs=heal, arguments={"model": "candidate"}, **common)
            beside = collections | training | calibration | {"model": candidate, "reference": reference}
            return computing("assess", inputs=beside, arguments={"model": "candidate", "weights": weights}, **common)

        measured = arm.expand_kwargs(arm_calls(begun, bases, taught, references, scores))
        seen = {"scores": scores, "landmarks": landmarks, "arms": measured}
        phase("frontier", inputs=seen, arguments={"begun": begun}, summarise=True, trigger_rule="all_done")

    return flow()


frontier()
