"""Following a run: trigger it, a line a phase while it goes on, and what there is to show at its end."""

import datetime
import secrets
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from effir.errors import BadInput, EffirError
from effir.services.airflow import Airflow

COMPRESS = "effir_compress"
FRONTIER = "effir_frontier"
NO_DAG = "deployments_check.py"
OVER = {"success", "failed", "skipped", "upstream_failed", "removed"}
READ_SECONDS = 60
POLL_SECONDS = 2.0
NEWS_SECONDS = 15.0
PATIENCE = 10


@dataclass
class Task:
    """A task of a run as it stands, and what it handed back."""

    name: str
    state: str = "waiting"
    seconds: float = 0.0
    eta: float | None = None
    figure: str = ""
    result: dict[str, Any] | None = None
    began: str = ""
    told: float = 0.0

    def line(self) -> str:
        """State, elapsed time, time left and the figure that matters."""
        state = "cached" if self.state == "success" and self.result and self.result["cached"] else self.state
        left = f"{self.eta:.0f} s left" if self.eta is not None and self.state == "running" else ""
        return f"{self.name:<36} {state:<9} {self.seconds:>6.1f} s  {', '.join(part for part in (left, self.figure) if part)}".rstrip()


@dataclass
class Outcome:
    """How a run ended. summary: what last-run.json holds; overview: scores of every model; links: where to look."""

    summary: dict[str, Any]
    overview: dict[str, Any]
    links: dict[str, str]
    seconds: float


@dataclass
class Follower:
    """Follows one DAG run and says what changes."""

    airflow: Airflow
    run_id: str
    say: Callable[[str], None]
    store: Any = None
    dag: str = COMPRESS
    tasks: dict[tuple[str, int], Task] = field(default_factory=dict)

    def until_over(self) -> str:
        """Follow until the run is over; returns its state. A short silence of Airflow is waited out."""
        silent = 0
        while True:
            try:
                state = self.airflow.run(self.dag, self.run_id)["state"]
                self.look()
                silent = 0
            except BadInput:
                raise
            except EffirError:
                silent += 1
                if silent > PATIENCE:
                    raise
                state = "unknown"
            if state in {"success", "failed"}:
                return state
            time.sleep(POLL_SECONDS)

    def look(self) -> None:
        """Read the states of all tasks, and say what is new."""
        for instance in sorted(self.airflow.tasks(self.dag, self.run_id), key=lambda one: (one["start_date"] or "9", one["map_index"])):
            key = (instance["task_id"], instance["map_index"])
            task = self.tasks.setdefault(key, Task(_named(*key)))
            before, task.state, task.began = task.state, instance["state"] or "waiting", instance["start_date"] or ""
            if task.state in OVER and before not in OVER:
                self._finish(key, task, instance)
            elif task.state == "running":
                task.told = task.told if before == "running" else time.monotonic()
                task.seconds = _since(instance["start_date"])
                self._progress(key, task)
            elif task.state == "awaiting_input" != before:
                page = run_page(self.airflow.url, self.run_id, self.dag)
                self.say(f"{task.name:<36} waits for a person's answer: {page}/tasks/{key[0]}/required_actions")

    def phases(self) -> list[dict[str, Any]]:
        """Every phase as last-run.json lists it, in the order in which they began."""
        return [
            {"name": task.name, "state": task.state} | {name: task.result[name] for name in ("cached", "seconds", "forward_passes")}
            for task in sorted(self.tasks.values(), key=lambda one: one.began)
            if task.result
        ]

    def failure(self) -> EffirError:
        """Why the run failed: the sentence that the first failed phase ended with."""
        for (name, index), task in self.tasks.items():
            if task.state == "failed":
                told = self.airflow.xcom(self.dag, self.run_id, name, "error", index)
                if told:
                    return (BadInput if told["exit_code"] == BadInput.exit_code else EffirError)(told["sentence"])
                return EffirError(f"{task.name} failed; its log is in {run_page(self.airflow.url, self.run_id, self.dag)}")
        return EffirError(f"the run failed; see {run_page(self.airflow.url, self.run_id, self.dag)}")

    def _finish(self, key: tuple[str, int], task: Task, instance: dict[str, Any]) -> None:
        task.seconds = instance["duration"] or 0.0
        if task.state == "success":
            handed = self.airflow.xcom(self.dag, self.run_id, key[0], map_index=key[1])
            if isinstance(handed, dict) and "manifest" in handed:
                task.result, task.name = handed, _called(key[0], handed)
                task.figure = _figure(handed)
        if task.state != "removed" and (task.result or task.state == "failed"):
            self.say(task.line())

    def _progress(self, key: tuple[str, int], task: Task) -> None:
        """What a running phase last told about itself, said every now and then."""
        if self.store is None or time.monotonic() - task.told < NEWS_SECONDS:
            return
        name = key[0] if key[1] < 0 else f"{key[0]}-{key[1]}"
        with suppress(EffirError):
            told = self.store.get_json(f"{self.store.root}/runs/{self.run_id}/progress/{name}.json")
            task.eta, task.figure = told["eta"], told["figure"]
        task.told = time.monotonic()
        self.say(task.line())


def run(settings: dict[str, str], profile: str, overrides: dict[str, Any], say: Callable[[str], None]) -> Outcome:
    """Trigger a run of `effir_compress` and follow it to its end.

    Raises BadInput or EffirError with the sentence of the phase that failed.
    """
    began = time.monotonic()
    follower = _followed(settings, COMPRESS, {"profile": profile} | overrides, say)
    told = follower.airflow.xcom(COMPRESS, follower.run_id, "report")
    summary = told["output"]["summary"] | {"phases": follower.phases()}
    page = run_page(follower.airflow.url, follower.run_id)
    return Outcome(summary, told["output"]["overview"], _links(settings, page, follower, summary), time.monotonic() - began)


def frontier(
    settings: dict[str, str], profile: str, overrides: dict[str, Any], question: dict[str, str], say: Callable[[str], None]
) -> dict[str, Any]:
    """Trigger a run of `effir_frontier` and follow it to its end: {dag_run_id, page, report, rows, contrasts, failed, phases}.

    question: variants, seeds, contrasts and study, as the form takes them.

    Raises BadInput or EffirError with the sentence of the phase that failed; an arm that failed is no failure of the run.
    """
    follower = _followed(settings, FRONTIER, {"profile": profile} | question | overrides, say)
    told = follower.airflow.xcom(FRONTIER, follower.run_id, "frontier")["output"]
    page = run_page(follower.airflow.url, follower.run_id, FRONTIER)
    return {"dag_run_id": follower.run_id, "page": page, **told, "phases": follower.phases()}


def run_page(url: str, run_id: str, dag: str = COMPRESS) -> str:
    """A run's page in Airflow."""
    return f"{url}/dags/{dag}/runs/{quote(run_id)}"


def _followed(settings: dict[str, str], dag: str, form: dict[str, Any], say: Callable[[str], None]) -> Follower:
    """A run of a DAG, triggered with this form and followed to its good end."""
    from effir.services.store import Store

    airflow = Airflow(
        settings["EFFIR_AIRFLOW_URL"], settings.get("EFFIR_AIRFLOW_USER", "admin"), settings.get("EFFIR_AIRFLOW_PASSWORD", "")
    )
    _await_dag(airflow, dag)
    run_id = f"effir-{datetime.datetime.now(datetime.UTC):%Y%m%dT%H%M%S}-{secrets.token_hex(2)}"
    airflow.trigger(dag, form, run_id)
    say(f"run {run_id}: {run_page(airflow.url, run_id, dag)}")
    follower = Follower(airflow, run_id, say, Store(), dag)
    try:
        state = follower.until_over()
    except KeyboardInterrupt:
        say(f"the run goes on without you; it is watched, and ended, on its page: {run_page(airflow.url, run_id, dag)}")
        raise
    if state == "failed":
        raise follower.failure()
    return follower


def _await_dag(airflow: Airflow, dag: str) -> None:
    deadline = time.monotonic() + READ_SECONDS
    while airflow.dag(dag) is None:
        if errors := [one for one in airflow.import_errors() if not one.startswith(NO_DAG)]:
            raise EffirError(f"Airflow cannot read its DAGs: {errors[0].strip().splitlines()[-1]}")
        if time.monotonic() > deadline:
            raise EffirError(f"Airflow at {airflow.url} does not know the DAG {dag}: is its DAG folder effir's dags/?")
        time.sleep(POLL_SECONDS)


def _links(settings: dict[str, str], page: str, follower: Follower, summary: dict[str, Any]) -> dict[str, str]:
    from effir.services import registry

    begun = follower.tasks["begin", -1].result or {"output": {}}
    tracking, model = settings.get("MLFLOW_TRACKING_URI", ""), summary["model"]
    mlflow = None
    with suppress(EffirError):
        mlflow = registry.run_address(begun["output"].get("mlflow_run_id"))
    found = {
        "Airflow run": page,
        "MLflow run": mlflow,
        "MLflow model": f"{tracking.rstrip('/')}/#/models/{quote(model['name'])}/versions/{model['version']}",
        "report": summary["report"],
    }
    return {label: address for label, address in found.items() if address}


def _named(task: str, index: int) -> str:
    return task.replace("finetune_", "finetune ") if index < 0 else f"{task} {index}"


def _called(task: str, result: dict[str, Any]) -> str:
    """A phase with what tells its executions apart: `encode candidate semanlink 0`."""
    known = result.get("caption", {}) | result["arguments"]
    return " ".join([result["phase"], *(str(known[name]) for name in ("arm", "seed", "model", "collection", "shard") if name in known)])


def _figure(result: dict[str, Any]) -> str:
    """The first two of a phase's numbers."""
    numbers = [(name, value) for name, value in result["numbers"].items() if isinstance(value, int | float)]
    return ", ".join(f"{name} {value:,}" if isinstance(value, int) else f"{name} {value:.4g}" for name, value in numbers[:2])


def _since(start: str | None) -> float:
    if not start:
        return 0.0
    began = datetime.datetime.fromisoformat(start.replace("Z", "+00:00"))
    return (datetime.datetime.now(datetime.UTC) - began).total_seconds()
