"""
# Index anew with the new champion

Runs by itself when a model gets another champion, by promotion or rollback (the asset `effir/champion`), for every entry of
`indexes.json` that names this model; triggered by hand, for the model of the form, or for all of them. The champion encodes the entry's
corpora shard by shard, FAISS indexes are built of the vectors, and one object for each corpus is changed in one write to name the new
index. Readers see the old index until then (docs/consume.md).
"""

import datetime
import json
from collections.abc import Iterator
from typing import Any

from airflow.sdk import DAG, Param, dag, task
from airflow.sdk.exceptions import AirflowSkipException

import alerts
import entries
from assets import CHAMPION
from form import params as fields
from pools import mapped_computing, shards_at_once

NEEDED = ("name", "collections")
ONLY = Param(
    None, type=["string", "null"], title="Model", section="Reindex",
    description_md="The registered model whose corpora are indexed anew. Empty: every model of `indexes.json`.",
)  # fmt: skip
LABEL = "{{ task.arguments['collection'] }} · {{ task.arguments['shard'] }}"
CORPUS = "{{ task.arguments['collection'] }}"


def wanted() -> list[dict[str, Any]]:
    """What is to be indexed, by indexes.json or the file that EFFIR_INDEXES names. Raises ValueError, a sentence for each fault."""
    path = entries.place("EFFIR_INDEXES", "indexes.json")
    found = entries.read(path, "nothing is indexed")
    if wrong := [f"{path}, entry {number}, {fault}" for number, entry in enumerate(found, 1) for fault in faults(entry)]:
        raise ValueError("\n".join(wrong))
    return found


def faults(entry: Any) -> Iterator[str]:
    """What is wrong with an entry."""
    if not isinstance(entry, dict):
        yield f"is {json.dumps(entry)}, must be an object with name and collections"
        return
    known = fields()
    del known["profile"]
    yield from (f"{name} is missing" for name in NEEDED if not entry.get(name))
    yield from (f"{name} {fault}" for name, value in entry.items() if (fault := entries.field_fault(known.get(name), value)))


@task
def due(listed: list[dict[str, Any]], params: Any = None, triggering_asset_events: Any = None) -> list[dict[str, Any]]:
    """The entries whose model has another champion, or that were asked for; skipped where there is none."""
    told = [event.extra.get("name") for events in (triggering_asset_events or {}).values() for event in events]
    asked = set(told) or {params["name"]} - {None, ""}
    found = [{"spec": entry} for entry in listed if not asked or entry["name"] in asked]
    if not found:
        raise AirflowSkipException(f"no entry of indexes.json names {', '.join(map(str, sorted(asked, key=str)))}")
    return found


@task
def encode_calls(found: Any) -> list[dict[str, Any]]:
    """What is to be encoded: every shard of every corpus, by the champion of its entry."""
    return [
        {
            "spec": one["output"]["spec"],
            "inputs": {"model": one["output"]["model"]["manifest"], "collection": one["parts"][name]},
            "arguments": {"model": "champion", "collection": name, "shard": shard},
            "caption": {"arm": one["output"]["model"]["name"]},
        }
        for one in found
        for name, told in one["output"]["collections"].items()
        for shard in range(told["shards"])
    ]


@task
def reindex_calls(found: Any, encoded: Any) -> list[dict[str, Any]]:
    """What is to be built: an index of every corpus, of the vectors of its shards."""
    vectors: dict[tuple[str, str], list[str]] = {}
    for one in encoded:
        vectors.setdefault((one["caption"]["arm"], one["arguments"]["collection"]), []).append(one["manifest"])
    return [
        {
            "spec": one["output"]["spec"],
            "inputs": {
                "model": one["output"]["model"]["manifest"],
                "collection": one["parts"][name],
                "encodes": vectors[one["output"]["model"]["name"], name],
            },
            "arguments": {"collection": name, "version": one["output"]["model"]["version"]},
        }
        for one in found
        for name in one["output"]["collections"]
    ]


def reindex(listed: list[dict[str, Any]]) -> DAG:
    """The DAG."""

    @dag(
        dag_id="effir_reindex", schedule=[CHAMPION], params={"name": ONLY}, doc_md=__doc__, tags=["effir"],
        catchup=False, max_active_runs=1, allowed_run_types=("manual", "asset_triggered", "operator_triggered"),
        default_args={"retries": 2, "retry_delay": datetime.timedelta(seconds=10)},
        on_failure_callback=alerts.failed,
    )  # fmt: skip
    def flow() -> None:
        found = mapped_computing("corpora", due(listed))
        encoded = mapped_computing("encode", encode_calls(found), map_index_template=LABEL, max_active_tis_per_dag=shards_at_once())
        mapped_computing("reindex", reindex_calls(found, encoded), map_index_template=CORPUS)

    return flow()


if asked := wanted():
    reindex(asked)
