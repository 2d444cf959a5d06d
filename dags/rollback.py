"""
# Bring the champion before back

One act: the version that was champion before takes its place again, MLflow's aliases follow, and the promotion log says who did it, when
and why. Refused where there is no former champion, or where one of its files is gone or damaged. The version that is taken back is not
crowned again by the next run (docs/promotion.md).
"""

import datetime
from typing import Any

from airflow.sdk import DAG, Metadata, Param, dag, task

import alerts
from assets import CHAMPION
from launch import Asked, phase

FORM = {
    "name": Param(
        "effir-demo", type="string", pattern="^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$", title="Model", section="Rollback",
        description_md="The registered model whose champion is taken back, as in `models:/NAME@champion`.",
    ),
    "to": Param(
        None, type=["integer", "null"], minimum=1, title="Version", section="Rollback",
        description_md="The former champion to bring back. Empty: the one that the champion of now replaced.",
    ),
    "why": Param(
        "", type=["string", "null"], maxLength=1000, title="Why", section="Rollback",
        description_md="Kept in the log, and shown when the same candidate comes up again.",
    ),
}  # fmt: skip


@task(outlets=[CHAMPION])
def announce(rolled: Any) -> Any:
    """Tells whoever waits for `effir/champion`."""
    yield Metadata(CHAMPION, rolled["output"]["model"])


def rollback() -> DAG:
    """The DAG."""

    @dag(
        dag_id="effir_rollback", schedule=None, params=FORM, doc_md=__doc__, tags=["effir"],
        catchup=False, max_active_runs=1, allowed_run_types=("manual", "operator_triggered"),
        default_args={"retries": 2, "retry_delay": datetime.timedelta(seconds=10)},
        on_failure_callback=alerts.failed,
    )  # fmt: skip
    def flow() -> None:
        announce(phase("rollback", spec={"name": Asked("name")}, arguments={"to": Asked("to"), "why": Asked("why")}))

    return flow()


rollback()
