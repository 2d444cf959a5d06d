"""The promotion log: which version of a model became its champion, when, by whom and why (docs/promotion.md).

A record is `<store>/promotions/<model>/<n>.json`, n = 1, 2, 3 … without gaps. It is written with a conditional put, and that put decides.
The champion is what the highest n says; MLflow's aliases `champion` and `previous` follow it. Where there is no record yet, MLflow's
champion counts, and is what the first record goes from.
"""

import datetime
import getpass
import os
import re
import socket
from collections.abc import Iterator
from typing import Any

from effir.errors import BadInput, EffirError
from effir.names import is_name
from effir.services import registry
from effir.services.mlflow_api import Refused
from effir.services.store import Store

RECORD = re.compile(r"[1-9]\d*\.json")
FIELDS = ("n", "at", "who", "action", "model", "from", "to", "why", "run", "verdict", "code")
TELLING = ("version", "digest", "manifest", "source", "files")


class Overtaken(EffirError):
    """Another version became the champion meanwhile. Exit code 2: never retried, since what was asked for was about the one before."""

    exit_code = 2


# Reading


def latest(store: Store, model: str) -> dict[str, Any] | None:
    """The record with the highest n, or None. A list that is behind the times does no harm: what follows it is looked up."""
    folder = f"{_folder(store, model)}/"
    names = (uri.removeprefix(folder) for uri, _ in store.list(folder))
    n = max((int(name.removesuffix(".json")) for name in names if RECORD.fullmatch(name)), default=0)
    while store.exists(_place(store, model, n + 1)):
        n += 1
    return _read(store, model, n) if n else None


def history(store: Store, model: str) -> Iterator[dict[str, Any]]:
    """Every record, the newest first."""
    record = latest(store, model)
    while record:
        yield record
        record = _read(store, model, record["n"] - 1) if record["n"] > 1 else None


def champion(store: Store, model: str) -> dict[str, Any] | None:
    """The champion {version, digest, manifest, source, files}, or None while there is none.

    files: digest of its files' contents, None where nobody noted it.
    """
    record = latest(store, model)
    return record["to"] if record else registry.by_alias(model, "champion")


def previous(store: Store, model: str, champion: str) -> str | None:
    """The version that a rollback of this champion brings back: the one that it replaced when it was promoted last."""
    record = None
    for record in history(store, model):
        if record["action"] == "promote" and record["to"]["version"] == champion:
            return record["from"]["version"] if record["from"] else None
    before = None if record else registry.by_alias(model, "previous")
    return before["version"] if before else None


def withdrawn(store: Store, model: str, digest: str) -> dict[str, Any] | None:
    """The rollback that took these bytes out of service, if nobody has brought them back since."""
    for record in history(store, model):
        if record["to"]["digest"] == digest:
            return None
        if record["action"] == "rollback" and record["from"]["digest"] == digest:
            return record
    return None


def author(run: dict[str, Any] | None = None) -> str:
    """Who acts: the Airflow run and who triggered it, or `user@host` of a command line."""
    if run and run.get("id"):
        return f"{run['by']} (Airflow run {run['id']})" if run.get("by") else f"Airflow run {run['id']}"
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = f"user {os.getuid()}"
    return f"{user}@{socket.gethostname()}"


# Writing


def record(
    store: Store,
    model: str,
    action: str,
    judged: dict[str, Any] | None,
    to: dict[str, Any],
    *,
    why: list[str],
    who: str,
    code: str,
    run: dict[str, Any] | None = None,
    verdict: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Make `to` the champion in the place of `judged`; returns the record. The aliases follow by `settle`.

    action: promote or rollback; judged: the champion that `to` was compared with, None for nobody; run: {id, mlflow_run_id} of an Airflow
    run; verdict: {verdict, artifact}; code: version of the code that acts.
    Raises Overtaken if the champion is another one by now.
    """
    while True:
        last = latest(store, model)
        now = last["to"] if last else registry.by_alias(model, "champion")
        if not same(now, judged):
            raise Overtaken(f"the champion of {model} is {called(now)} by now, and no longer {called(judged)}")
        n = last["n"] + 1 if last else 1
        told = {
            "n": n,
            "at": datetime.datetime.now(datetime.UTC).isoformat(timespec="microseconds"),
            "who": who,
            "action": action,
            "model": model,
            "from": now and {"version": now["version"], "digest": now["digest"]},
            "to": {name: to.get(name) for name in TELLING},
            "why": why,
            "run": {"dag_run_id": run["id"], "mlflow_run_id": run.get("mlflow_run_id")} if run else None,
            "verdict": verdict,
            "code": code,
        }
        place = _place(store, model, n)
        if store.put_json(place, told, only_if_absent=True) or store.get_json(place) == told:
            return told


def settle(store: Store, model: str) -> None:
    """Make MLflow's aliases say what the log says; nothing is written where they do.

    Whoever acts does this first, which mends what a crash left, and last. Two may do it at once: each looks at the log again once it has
    written. Raises BadInput if MLflow lacks the champion's version.
    """
    record = latest(store, model)
    while record:
        _point(model, record["to"]["version"], previous(store, model, record["to"]["version"]))
        seen, record = record["n"], latest(store, model)
        if record and record["n"] == seen:
            return


def sentence(record: dict[str, Any]) -> str:
    """A record in words."""
    now = f"version {record['to']['version']} of {record['model']} is the champion"
    return f"{now}, no longer {called(record['from'])} (promotion {record['n']})"


def called(version: dict[str, Any] | None) -> str:
    """What a sentence calls a champion."""
    return f"version {version['version']}" if version else "nobody"


def same(one: dict[str, Any] | None, other: dict[str, Any] | None) -> bool:
    """Whether these are the same version with the same digest, or both nobody."""
    return (one and (one["version"], one["digest"])) == (other and (other["version"], other["digest"]))


def _point(model: str, crowned: str, before: str | None) -> None:
    """`previous` first, so that there is a champion at every moment."""
    now = registry.aliases(model)
    if now.get("previous") != before:
        if before and registry.has_version(model, before):
            registry.point(model, "previous", before)
        elif "previous" in now:
            registry.unpoint(model, "previous")
    if now.get("champion") != crowned:
        try:
            registry.point(model, "champion", crowned)
        except Refused as refusal:
            if refusal.code in registry.ABSENT:
                raise BadInput(f"the log says that version {crowned} of {model} is its champion, and MLflow has no such version") from None
            raise


def _folder(store: Store, model: str) -> str:
    if not is_name(model):
        raise BadInput(f"{model!r} cannot be the name of a model: write 1 to 64 letters, digits, dots, dashes or underscores")
    return f"{store.root}/promotions/{model}"


def _read(store: Store, model: str, n: int) -> dict[str, Any]:
    place = _place(store, model, n)
    found = store.get_json(place)
    if not isinstance(found, dict) or found.get("n") != n or found.get("model") != model or not set(FIELDS) <= set(found):
        raise BadInput(f"{place} is no record of the promotion log: somebody else wrote it, so put back what effir wrote")
    return found


def _place(store: Store, model: str, n: int) -> str:
    return f"{_folder(store, model)}/{n}.json"
