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


@task
def base_calls(begun: Any) -> list[dict[str, Any]]:
    """Every model that a variant starts from, the frontier's own first. The data that each prepares are the same again."""
    return [{"spec": one["spec"], "caption": {"arm": one["spec"]["base_model"]}} for one in begun["output"]["bases"]]


@task
def teacher_calls(begun: Any, prepared: Any) -> list[dict[str, Any]]:
    """Every teacher that a variant asks for."""
    return [{"inputs": {"training": prepared["parts"]["training"]}, "spec": one["spec"]} for one in begun["output"]["teachers"]]


@task
def reference_calls(begun: Any, prepared: Any, taught: Any) -> list[dict[str, Any]]:
    """A full-size reference for every seed and every way of training."""
    said = [one["manifest"] for one in taught]
    inputs = {"base": prepared["parts"]["base"], "training": prepared["parts"]["training"]}
    return [
        {"inputs": inputs | {"teacher": said[one["teacher"]]}, "spec": one["spec"], "caption": one["caption"]}
        for one in begun["output"]["references"]
    ]


@task
def score_calls(begun: Any, prepared: Any, bases: Any, references: Any) -> list[dict[str, Any]]:
    """Importance scores, one for each measure that a variant asks for."""
    shared = {name: prepared["parts"][name] for name in ("calibration", "training")}
    return [
        {
            "inputs": shared
            | {"base": bases[one["base"]]["parts"]["base"] if one["reference"] is None else references[one["reference"]]["manifest"]},
            "spec": one["spec"],
        }
        for one in begun["output"]["scores"]
    ]


@task
def landmark_calls(begun: Any, prepared: Any, references: Any) -> list[dict[str, Any]]:
    """What the variants are seen beside: the references, the untrained base, BM25 and MiniLM."""
    collections = {"collections": [prepared["parts"][name] for name in prepared["output"]["collections"]]}
    models = {"base": {"model": prepared["parts"]["base"]}, "bm25": {}, "minilm": {}}
    calls = [{"inputs": collections | inputs, "arguments": {"model": name}, "caption": {"arm": name}} for name, inputs in models.items()]
    return calls + [
        {
            "inputs": collections | {"model": trained["manifest"]},
            "arguments": {"model": "reference"},
            "caption": {"arm": one["name"]} | one["caption"],
        }
        for one, trained in zip(begun["output"]["references"], references, strict=True)
    ]


@task
def arm_calls(begun: Any, bases: Any, taught: Any, references: Any, scores: Any) -> list[dict[str, Any]]:
    """What each variant starts from."""
    said, trained, scored = ([one["manifest"] for one in given] for given in (taught, references, scores))
    return [
        {
            "spec": one["spec"],
            "caption": one["caption"],
            "base": bases[one["base"]]["parts"]["base"] if one["cut"] == "base" else trained[one["reference"]],
            "teacher": said[one["teacher"]],
            "weights": one["weights"],
            "reference": trained[one["reference"]],
            "scores": scored[one["scores"]],
        }
        for one in begun["output"]["arms"]
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
            slimmed = computing("slim", inputs=start | training | calibration | {"depth": dropped}, **common)
            healed = {"base": slimmed}
            cut = computing("narrow", inputs=healed | {"importance": scores, "depth": dropped, "slim": slimmed}, **common)
            heal = healed | training | {"teacher": teacher, "narrow": cut, "reference": reference}
            candidate = computing("finetune", inputs=heal, arguments={"model": "candidate"}, **common)
            beside = collections | training | calibration | {"model": candidate, "reference": reference}
            return computing("assess", inputs=beside, arguments={"model": "candidate", "weights": weights}, **common)

        measured = arm.expand_kwargs(arm_calls(begun, bases, taught, references, scores))
        seen = {"landmarks": landmarks, "arms": measured}
        phase("frontier", inputs=seen, arguments={"begun": begun}, summarise=True, trigger_rule="all_done")

    return flow()


frontier()
