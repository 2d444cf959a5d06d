"""How a phase is started: one operator for each runner, all of which pass the same two JSON files through S3.

The setting EFFIR_RUNNER chooses the runner. A runner knows only how to run `effir phase NAME --spec URI --result URI`
and to say how it ended; what goes into the call, comes out as the result and follows from an exit code is the same for all
of them.
"""

import datetime
import functools
import importlib
import json
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowRescheduleException, AirflowSkipException

import settings
import telling
from links import BEGIN, links_of

CONNECTION = "effir_s3"
RUNNERS = {"process": ("process", "ProcessPhase"), "docker": ("container", "DockerPhase"), "kubernetes": ("pod", "PodPhase")}
DONE, FAILED, BAD_INPUT, STOPPED, OUT_OF_MEMORY = 0, 1, 2, 75, 76
SHRINKING = ("finetune", "slim")
PATIENCE = 10
HALVINGS = 8
FORM = ("begin", "arms")
RUN_ID = re.compile(r"[A-Za-z0-9_.~:+-]{1,250}")
PREFIX = "effir: "
SENTENCES: dict[str, str] = json.loads((Path(__file__).parent / "phases.json").read_text())


@dataclass(frozen=True)
class Asked:
    """Stands among a phase's inputs, arguments or spec for what the form says under this name, as text; empty where it was left empty."""

    name: str

    def resolve(self, context: Any) -> str:
        """Airflow calls this in place of rendering a template."""
        value = context["params"].get(self.name)
        return "" if value is None else str(value)


class Phase(BaseOperator):
    """One phase of a run: writes its call, lets the runner run it, hands its result back.

    The first one is given the trigger form; every other phase the spec that the first made of it, or one of its own.

    inputs:    name → result of an earlier phase, a list of them, or a manifest URI
    spec:      another spec than the one that the first phase made, where there is such a phase
    caption:   what people tell the executions of a mapped phase apart by; the cache does not care
    form:      another trigger form than the run's, {profile, field: value}
    only:      of a list of results, the model whose results are meant
    where:     field → value that the spec must have for the phase to be needed; it is skipped otherwise
    summarise: tell the phase, as its argument `phases`, how those before it went
    """

    template_fields = ("inputs", "arguments", "spec", "caption")
    operator_extra_links = links_of("")
    ui_color = "#e8f0fe"

    def __init__(
        self,
        *,
        phase: str,
        inputs: Any = None,
        arguments: Any = None,
        spec: Any = None,
        caption: Any = None,
        form: dict[str, Any] | None = None,
        only: str = "",
        where: dict[str, Any] | None = None,
        summarise: bool = False,
        **settings: Any,
    ) -> None:
        super().__init__(**settings)
        self.phase = phase
        self.inputs = inputs if inputs is not None else {}
        self.arguments = arguments if arguments is not None else {}
        self.spec = spec
        self.caption = caption if caption is not None else {}
        self.form = form
        self.only = only
        self.where = where or {}
        self.summarise = summarise
        self.result: dict[str, Any] | None = None
        self.operator_extra_links = links_of(phase)

    def render_template(self, content: Any, context: Any, jinja_env: Any = None, seen_oids: set[int] | None = None) -> Any:
        """References to other tasks become what those handed back, Asked what the form says; text stays text, for people typed it.

        Airflow itself would render what a mapped task is given as well: a form's {{ conn.effir_s3.password }} would become a password.
        """
        return content if isinstance(content, str) else super().render_template(content, context, jinja_env, seen_oids)

    def execute(self, context: Any) -> dict[str, Any]:
        """Run the phase; returns its result."""
        with self.patient(context):
            call = self.call(context)
            if halvings := pressure(context):
                call["halvings"] = halvings
            write(address(context, "calls"), call)
        command = self.command(context)
        self.say(telling.opening(SENTENCES[self.phase], call, command))
        return self.finish(context, *self.launch(command, context))

    def say(self, lines: Iterable[str]) -> None:
        """Lines for the log."""
        for line in lines:
            self.log.info("%s", line)

    def launch(self, command: list[str], context: Any) -> tuple[int, str]:
        """Run `effir` with these arguments; returns its exit code and the sentence that it ended with."""
        raise AirflowFailException(f"{type(self).__name__} does not say how a phase is launched")

    def command(self, context: Any) -> list[str]:
        """What follows `effir`."""
        processes = settings.load().of(self.phase).resources.processes
        several = ["--processes", str(processes)] if processes > 1 else []
        return ["phase", self.phase, "--spec", address(context, "calls"), "--result", address(context, "results"), *several]

    def finish(self, context: Any, code: int, sentence: str) -> dict[str, Any]:
        """What follows from an exit code: the result, or an error.

        Bad input fails for good, everything else is retried. To have been stopped, to have found a server out of reach, or to try again
        with less in memory, takes none of the retries: the same try goes on, PATIENCE times at most. Where memory runs out in spite of
        HALVINGS halvings, that is for good.
        """
        if code == DONE:
            with self.patient(context):
                self.result = read(address(context, "results"))
            self.say(telling.closing(self.result))
            if note := self.result["output"].get("note"):
                context["ti"].xcom_push(key="note", value=note)
            return self.result
        told = f"{self.phase} ended with {code}: {sentence}"
        context["ti"].xcom_push(key="error", value={"sentence": sentence, "exit_code": code})
        if code == BAD_INPUT:
            raise AirflowFailException(told)
        shrinks = code == OUT_OF_MEMORY and self.phase in SHRINKING
        if code == OUT_OF_MEMORY:
            with self.patient(context):
                times = pressure(context) + 1
                write(address(context, "pressure"), {"halvings": times})
            if shrinks and times > HALVINGS:
                raise AirflowFailException(f"{told}; it did so {times} times, each time with half as much to hold: give it more memory")
        if code == STOPPED or shrinks:
            self.later(context, told)
        raise AirflowException(told)

    def later(self, context: Any, told: str) -> None:
        """Go on with the same try after the retry delay; returns only where that happened PATIENCE times already."""
        if context["task_reschedule_count"] < PATIENCE:
            self.log.warning("%s; it goes on in %s", told, self.retry_delay)
            raise AirflowRescheduleException(datetime.datetime.now(datetime.UTC) + self.retry_delay)

    @contextmanager
    def patient(self, context: Any) -> Iterator[None]:
        """What the task itself asks of S3: where S3 is away, the same try goes on later."""
        try:
            yield
        except Exception as error:
            if away(error):
                self.later(context, f"{self.phase}: S3 is out of reach: {error}")
            raise

    def call(self, context: Any) -> dict[str, Any]:
        """What the phase is told."""
        run = {"id": run_of(context), "by": started_by(context), "mlflow_run_id": None, "airflow_url": airflow_url(context)}
        if self.form or self.phase in FORM:
            given = self.form or context["params"]
            form = {name: value for name, value in given.items() if value is not None and name not in self.arguments}
            return {"run": run, "profile": form.pop("profile"), "overrides": form, "arguments": self.arguments}
        begun = context["ti"].xcom_pull(task_ids=BEGIN)
        if not begun and not self.spec:
            raise AirflowFailException(f"{self.phase} has nothing to go by, since {BEGIN} failed; its log says why")
        run["mlflow_run_id"] = begun["output"]["mlflow_run_id"] if begun else None
        inputs = {name: found for name, value in self.inputs.items() if (found := pick(name, value, self.only))}
        arguments = dict(self.arguments)
        if self.summarise:
            arguments["phases"] = [summary for value in self.inputs.values() for summary in summaries(value)]
        spec = self.spec or begun["output"]["spec"]
        for field, value in self.where.items():
            if spec[field] != value:
                raise AirflowSkipException(f"not needed: {field} is {spec[field]}")
        return {"run": run, "spec": spec, "inputs": inputs, "arguments": arguments, "caption": self.caption}


class Ending:
    """What a phase ended with: the last line that is meant for people, or else the last line."""

    def __init__(self) -> None:
        self.last = self.told = ""

    def hear(self, line: str) -> None:
        """Take note of a line of its output."""
        self.last = line.strip() or self.last
        self.told = line.strip().removeprefix(PREFIX) if line.startswith(PREFIX) else self.told

    @property
    def sentence(self) -> str:
        """One line, empty where there was no output."""
        return self.told or self.last


def runner() -> type[Phase]:
    """The operator that the setting EFFIR_RUNNER names."""
    name = os.environ.get("EFFIR_RUNNER") or "process"
    if name not in RUNNERS:
        raise ValueError(f"EFFIR_RUNNER is {name!r}: choose one of {', '.join(RUNNERS)}")
    settings.load()
    module, operator = RUNNERS[name]
    return getattr(importlib.import_module(module), operator)


def phase(name: str, *, task_id: str | None = None, **settings: Any) -> Any:
    """The task of a phase; its output is the phase's result."""
    return runner()(task_id=task_id or name, phase=name, doc_md=SENTENCES[name], **settings).output


def mapped_phase(name: str, calls: Any, *, task_id: str | None = None, **settings: Any) -> Any:
    """The tasks of a phase, one for each call {"inputs": …, "arguments": …}; their output is a list of results."""
    return runner().partial(task_id=task_id or name, phase=name, doc_md=SENTENCES[name], **settings).expand_kwargs(calls).output


def pick(name: str, value: Any, only: str = "") -> Any:
    """The manifest URI that an input called `name` stands for: the part of that name, or the whole artifact; lists likewise.

    Importance is scored by one of several tasks, and the others are skipped.
    """
    if name == "importance" and isinstance(value, list):
        value = next((one for one in value if one), None)
    if value is None or isinstance(value, str):
        return value
    if not isinstance(value, dict):
        return [one if isinstance(one, str) else one["manifest"] for one in value if not only or one["arguments"]["model"] == only]
    if name == "champion":
        return (value["output"]["champion"] or {}).get("manifest")
    if name == "collections":
        return [value["parts"][one] for one in value["output"]["collections"]]
    return value["parts"].get(name) or value["manifest"]


def summaries(value: Any) -> list[dict[str, Any]]:
    """How phases went: {name, state, caption, manifest, cached, seconds, forward_passes} of a result or each of a list of them."""
    if isinstance(value, str):
        return []
    results = [value] if isinstance(value, dict) else [one for one in value if one]
    told = ("caption", "manifest", "cached", "seconds", "forward_passes")
    return [{"name": called(one), "state": "success"} | {name: one[name] for name in told} for one in results]


def called(result: dict[str, Any]) -> str:
    """A phase with what tells its executions apart: `encode candidate semanlink 0`."""
    known = result.get("caption", {}) | result["arguments"]
    return " ".join([result["phase"], *(str(known[name]) for name in ("arm", "seed", "model", "collection", "shard") if name in known)])


def address(context: Any, kind: str) -> str:
    """Where a task's JSON of a kind lies: `calls`, `results` or `pressure`."""
    store = os.environ.get("EFFIR_STORE", "s3://effir").rstrip("/")
    return f"{store}/runs/{run_of(context)}/{kind}/{name_of(context)}.json"


def run_of(context: Any) -> str:
    """The run's id. A person may have typed it: raises AirflowFailException where it could reach another run's keys."""
    run_id = context["run_id"]
    if not RUN_ID.fullmatch(run_id) or not run_id.strip("."):
        raise AirflowFailException(f"the run id {run_id!r} cannot name a folder: use letters, digits and . _ ~ : + - alone, 250 at most")
    return run_id


def name_of(context: Any) -> str:
    """What a task is called, with its index where it is mapped."""
    task = context["ti"]
    return task.task_id if task.map_index < 0 else f"{task.task_id}-{task.map_index}"


def pressure(context: Any) -> int:
    """How often the task ran out of memory before."""
    place = address(context, "pressure")
    bucket, key = split(place)
    return read(place)["halvings"] if s3().check_for_key(key, bucket) else 0


def away(error: Exception) -> bool:
    """Whether S3 does not answer, or answers that it is out of order."""
    from botocore.exceptions import ClientError, ConnectionError, HTTPClientError

    if isinstance(error, ClientError):
        return error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0) >= 500
    return isinstance(error, (ConnectionError, HTTPClientError))


def write(uri: str, value: dict[str, Any]) -> None:
    """Put JSON at an s3:// address."""
    bucket, key = split(uri)
    s3().load_string(json.dumps(value, indent=1), key, bucket, replace=True)


def read(uri: str) -> dict[str, Any]:
    """The JSON at an s3:// address."""
    return json.loads(read_text(uri))


@functools.cache
def s3() -> Any:
    """Airflow's hook for S3."""
    from airflow.providers.amazon.aws.hooks.s3 import S3Hook

    return S3Hook(aws_conn_id=CONNECTION)


def read_text(uri: str) -> str:
    """The text at an s3:// address."""
    bucket, key = split(uri)
    return s3().read_key(key, bucket)


def split(uri: str) -> tuple[str, str]:
    """Bucket and key of an s3:// address."""
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    return bucket, key


def started_by(context: Any) -> str | None:
    """The user who triggered this run, where somebody did."""
    return getattr(context.get("dag_run"), "triggering_user_name", None)


def airflow_url(context: Any) -> str | None:
    """The page of this run in Airflow."""
    base = os.environ.get("EFFIR_AIRFLOW_URL")
    return f"{base}/dags/{quote(context['dag'].dag_id, safe='')}/runs/{quote(context['run_id'], safe='')}" if base else None
