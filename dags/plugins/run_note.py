"""Writes how a run ended into its note, which Airflow shows beside it: the verdict, or the sentence of the phase that failed.

A task says it by an XCom called `note` (or `error`). In Airflow 3.3 no task may write notes itself, so this listener does, in the
scheduler. Airflow finds it in its plugins folder: [core] plugins_folder, or AIRFLOW__CORE__PLUGINS_FOLDER.
"""

from typing import Any

from airflow.listeners import hookimpl
from airflow.models.xcom import XComModel
from airflow.plugins_manager import AirflowPlugin
from sqlalchemy.orm import object_session

OURS = "effir_"
LONGEST = 1000


class RunNote:
    """Listens to the ends of runs; those of other DAGs, and runs with a note already, are left alone."""

    @hookimpl
    def on_dag_run_success(self, dag_run: Any, msg: str) -> None:
        """A run ended well."""
        note(dag_run, "note")

    @hookimpl
    def on_dag_run_failed(self, dag_run: Any, msg: str) -> None:
        """A run failed."""
        note(dag_run, "error")


def note(dag_run: Any, key: str) -> None:
    """Give the run its note, from the XCom that a task of it pushed last under this key."""
    if not dag_run.dag_id.startswith(OURS) or dag_run.note:
        return
    found = object_session(dag_run).scalars(XComModel.get_many(run_id=dag_run.run_id, dag_ids=dag_run.dag_id, key=key, limit=1)).first()
    if found is None:
        return
    told = XComModel.deserialize_value(found)
    text = f"**Failed in {found.task_id}**: {told['sentence']}" if isinstance(told, dict) else str(told)
    dag_run.note = text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"


class RunNotePlugin(AirflowPlugin):
    """What Airflow looks for."""

    name = "effir_run_note"
    listeners = [RunNote()]  # noqa: RUF012
