"""Whether each service of the embedded stack answers."""

from collections.abc import Callable, Iterator
from contextlib import suppress

import requests

from effir.errors import EffirError
from effir.services.airflow import Airflow
from effir.services.layout import Layout
from effir.services.programs import BUCKETS, REGION

AIRFLOW_PARTS = ("metadatabase", "scheduler", "triggerer", "dag_processor")


def checks(layout: Layout) -> Iterator[tuple[str, Callable[[], bool]]]:
    """(service, check) pairs; Airflow counts as ready once all of its parts report and the pool `compute` is there."""
    yield "S3", lambda: _s3(layout)
    yield "MLflow", lambda: _answers(f"{layout.url('mlflow')}/health")
    yield "Airflow", lambda: _airflow(layout)


def _answers(url: str) -> bool:
    with suppress(requests.RequestException):
        return requests.get(url, timeout=2).ok
    return False


def _s3(layout: Layout) -> bool:
    if not _answers(f"{layout.url('s3')}/healthz"):
        return False
    import boto3
    from botocore.exceptions import BotoCoreError, ClientError

    client = boto3.client(
        "s3", endpoint_url=layout.url("s3"), region_name=REGION,
        aws_access_key_id=layout.secrets["s3_key"], aws_secret_access_key=layout.secrets["s3_secret"],
    )  # fmt: skip
    with suppress(BotoCoreError, ClientError):
        return {bucket["Name"] for bucket in client.list_buckets()["Buckets"]} >= set(BUCKETS)
    return False


def _airflow(layout: Layout) -> bool:
    with suppress(requests.RequestException, ValueError, KeyError, EffirError):
        parts = requests.get(f"{layout.url('airflow')}/api/v2/monitor/health", timeout=5).json()
        if all(parts[part]["status"] == "healthy" for part in AIRFLOW_PARTS):
            Airflow(layout.url("airflow"), "admin", layout.secrets["airflow_password"]).ensure_pool(
                "compute", 1, "One phase computes at a time"
            )
            return True
    return False
