"""Links from a task to what it made: its run in MLflow, its artifact in S3, and the page that shows the whole run."""

import os
from typing import Any

from airflow.sdk import BaseOperatorLink

BEGIN = "begin"
REPORTING = ("report", "frontier")
BROWSER = "EFFIR_S3_BROWSER"


class MlflowLink(BaseOperatorLink):
    """The MLflow run of the phase; of the whole run where the phase has none of its own."""

    name = "MLflow"

    def get_link(self, operator: Any, *, ti_key: Any) -> str:
        """Airflow calls this in the worker, with the task instance, once the task is over."""
        page, own = run_page(operator, ti_key), (operator.result or {}).get("mlflow_run_id")
        return f"{page.rpartition('/')[0]}/{own}" if page and own else page


class ArtifactLink(BaseOperatorLink):
    """The artifact's folder, where EFFIR_S3_BROWSER says how S3 is looked at: an address with {bucket} and {key}."""

    name = "S3 artifact"

    def get_link(self, operator: Any, *, ti_key: Any) -> str:
        """As above."""
        browser, manifest = os.environ.get(BROWSER), (operator.result or {}).get("manifest")
        if not browser or not manifest:
            return ""
        bucket, _, key = manifest.removeprefix("s3://").rpartition("/")[0].partition("/")
        return browser.replace("{bucket}", bucket).replace("{key}", key)


class ReportLink(BaseOperatorLink):
    """The report, among the files of the MLflow run."""

    name = "Report"

    def get_link(self, operator: Any, *, ti_key: Any) -> str:
        """As above."""
        page, report = run_page(operator, ti_key), (operator.result or {}).get("output", {}).get("report")
        return f"{page}/artifacts/{report.rpartition('/')[2]}" if page and report else ""


def links_of(phase: str) -> tuple[BaseOperatorLink, ...]:
    """The links that a phase's task has."""
    return (MlflowLink(), ArtifactLink(), *([ReportLink()] if phase in REPORTING else []))


def run_page(operator: Any, instance: Any) -> str:
    """The MLflow page of the DAG run, as its first phase told it; empty where there is none."""
    begun = operator.result if instance.task_id == BEGIN else instance.xcom_pull(task_ids=BEGIN)
    return (begun or {}).get("output", {}).get("mlflow") or ""
