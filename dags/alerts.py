"""Who is told that a run failed or is late: a line in the log always, and a POST to the HTTP connection `effir_alerts` where there is one.

The connection's host is the address. Its login and password are sent as such, its extra as headers; a password without a login is the
secret end of the address, as chat services give them out. It comes from AIRFLOW_CONN_EFFIR_ALERTS or a secrets backend: Airflow 3.3
does not let a deadline's callback read the connections in its database (a failure's may).
"""

import datetime
import logging
import os
import time
from typing import Any
from urllib.parse import quote

from airflow.sdk import DeadlineAlert, DeadlineReference, SyncCallback
from airflow.sdk.configuration import conf
from airflow.sdk.exceptions import AirflowNotFoundException, AirflowSecretsBackendAccessDenied

CONNECTION = "effir_alerts"
PAUSES = (0, 1, 3)
TIMEOUT = 5
UNTOLD = "its log says why"

log = logging.getLogger(__name__)


def failed(context: Any) -> None:
    """A run failed; Airflow calls this in the DAG processor, with the task that failed last where there is one."""
    instance = context.get("ti")
    task, error = blame(instance) if instance else (None, context.get("reason") or UNTOLD)
    tell("run_failed", context["dag"].dag_id, context["run_id"], task, error)


def blame(instance: Any) -> tuple[str, str]:
    """The task that failed, with its place among mapped ones, and the sentence that its phase ended with."""
    mapped = instance.map_index is not None and instance.map_index >= 0
    told = instance.xcom_pull(task_ids=instance.task_id, key="error", map_indexes=instance.map_index if mapped else -1)
    name = f"{instance.task_id} {instance.map_index}" if mapped else instance.task_id
    return name, (told or {}).get("sentence") or UNTOLD


def deadline(hours: float | None) -> DeadlineAlert | None:
    """The alert of a DAG whose runs should be over this many hours after they were queued."""
    if hours is None:
        return None
    callback = SyncCallback(late, kwargs={"hours": hours})
    return DeadlineAlert(reference=DeadlineReference.DAGRUN_QUEUED_AT, interval=datetime.timedelta(hours=hours), callback=callback)


def late(context: Any, hours: float) -> None:
    """A run was not over in time; Airflow calls this in its executor. A run that failed meanwhile has been told of already."""
    run = context["dag_run"]
    if run["state"] != "failed":
        tell("deadline_missed", run["dag_id"], run["dag_run_id"], None, f"not over {hours:g} hours after it was queued; it goes on")


def tell(event: str, dag_id: str, run_id: str, task: str | None, error: str) -> None:
    """One line in the log, and one POST of {event, dag_id, run_id, task, error, url, text}."""
    airflow = os.environ.get("EFFIR_AIRFLOW_URL") or conf.get("api", "base_url", fallback=None)
    url = f"{airflow.rstrip('/')}/dags/{quote(dag_id, safe='')}/runs/{quote(run_id, safe='')}" if airflow else None
    at = f"{dag_id}, run {run_id}" + (f", task {task}" if task else "")
    text = f"{event.replace('_', ' ')}: {at}: {error}" + (f" ({url})" if url else "")
    log.error("effir: %s", text)
    post({"event": event, "dag_id": dag_id, "run_id": run_id, "task": task, "error": error, "url": url, "text": text})


def post(body: dict[str, Any]) -> None:
    """Hand it to the connection's address, three times where that fails; the log says so, by the error's kind alone.

    The error's own words would hold the address, and with it the secret.
    """
    from airflow.providers.http.hooks.http import HttpHook

    hook, problem = HttpHook("POST", CONNECTION), ""
    try:
        connection = hook.get_connection(CONNECTION)
    except AirflowNotFoundException:
        return
    except AirflowSecretsBackendAccessDenied:
        log.error("effir: the connection %s cannot be read from Airflow's database here: set AIRFLOW_CONN_EFFIR_ALERTS", CONNECTION)
        return
    secret = connection.password if not connection.login else None
    for pause in PAUSES:
        time.sleep(pause)
        try:
            session = hook.get_conn()
            session.post(hook.url_from_endpoint(secret), json=body, timeout=TIMEOUT).raise_for_status()
            return
        except Exception as error:
            problem = type(error).__name__
    log.error("effir: the connection %s did not take the alert (%s): check its address", CONNECTION, problem)
