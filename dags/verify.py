"""
# Are the champions still what was crowned?

For every deployment: reads each file of its champion and compares it with its digest, compares MLflow's aliases with the promotion log, and
recomputes the golden embeddings with every loader. What is damaged fails the run, and an alert tells of it; `effir rollback NAME` brings
the champion before back. EFFIR_VERIFY_CRON says when it runs, such as `0 6 * * *`; without it, when somebody triggers it.
"""

import datetime
import os

from airflow.sdk import DAG, dag

import alerts
from deployments import Deployment, deployments
from pools import computing


def verify(deployed: list[Deployment]) -> DAG:
    """The DAG: a task for each deployment."""

    @dag(
        dag_id="effir_verify", schedule=os.environ.get("EFFIR_VERIFY_CRON") or None, doc_md=__doc__, tags=["effir"],
        catchup=False, max_active_runs=1, allowed_run_types=("manual", "scheduled", "operator_triggered"),
        default_args={"retries": 2, "retry_delay": datetime.timedelta(seconds=10)},
        on_failure_callback=alerts.failed,
    )  # fmt: skip
    def flow() -> None:
        for one in deployed:
            computing("audit", task_id=f"audit_{one.name}", form={"profile": one.profile} | one.overrides)

    return flow()


if found := deployments()[0]:
    verify(found)
