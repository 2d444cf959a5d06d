"""The assets: what runs wait for, and what they tell of."""

from airflow.sdk import Asset


def asset(name: str) -> Asset:
    """An asset by its name, such as effir/champion; an s3:// address here would load boto3 at every parse."""
    return Asset(name=name, group="effir")


CANDIDATE, CHAMPION = asset("effir/candidate"), asset("effir/champion")
TRAINING, BASE = asset("effir/training-data"), asset("effir/base-model")
