"""The entries of deployments.json: each is a DAG like `effir_compress` that starts by itself.

An entry: `{"name": …, "profile": …, "cron": "0 3 * * *", "overrides": {field: value}, "deadline_hours": 6}`, or `"assets": [name, …]`
in place of `cron`. What is wrong with an entry is said in one sentence; the other entries do not suffer from it.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from airflow.sdk import CronTriggerTimetable
from airflow.sdk.configuration import conf
from airflow.sdk.exceptions import AirflowTimetableInvalid

import entries
from form import params

FIELDS = ("name", "profile", "cron", "assets", "overrides", "deadline_hours")
TRIGGERS = ("effir/base-model", "effir/training-data")
OURS = "effir/"
YEAR = 8760
CALLING = ("LocalExecutor", "CeleryExecutor")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True)
class Deployment:
    """One right entry. Either cron or assets is set; deadline_hours: None for no deadline."""

    name: str
    profile: str
    cron: str | None = None
    assets: tuple[str, ...] = ()
    overrides: dict[str, Any] = field(default_factory=dict)
    deadline_hours: float | None = None


def deployments() -> tuple[list[Deployment], list[str]]:
    """The right entries, and a sentence for everything that is wrong."""
    path = entries.place("EFFIR_DEPLOYMENTS", "deployments.json")
    try:
        listed = entries.read(path, "no deployment runs")
    except ValueError as error:
        return [], [str(error)]
    right: dict[str, Deployment] = {}
    wrong: list[str] = []
    for number, entry in enumerate(listed, 1):
        found = list(faults(entry))
        if not found and entry["name"] in right:
            found = [("name", "is the name of an entry above: every entry needs one of its own")]
        wrong += [f"{path}, entry {called(number, entry)}, {name} {fault}" for name, fault in found]
        if not found:
            right[entry["name"]] = Deployment(**entry | {"assets": tuple(entry.get("assets", ()))})
    return list(right.values()), wrong


def called(number: int, entry: Any) -> str:
    """What a sentence calls an entry: its place in the list, and its name where it has one."""
    name = entry.get("name") if isinstance(entry, dict) else None
    return f"{number} ({name})" if isinstance(name, str) else str(number)


def faults(entry: Any) -> Iterator[tuple[str, str]]:
    """Each fault of an entry: the field, and what is wrong with it."""
    if not isinstance(entry, dict):
        yield "which", f"is {json.dumps(entry)}, must be an object with name, profile, and cron or assets"
        return
    for unknown in sorted(set(entry) - set(FIELDS)):
        yield unknown, f"is no field of an entry: choose from {', '.join(FIELDS)}"
    if not isinstance(entry.get("name"), str) or not NAME.fullmatch(entry["name"]):
        yield "name", "must be 1 to 64 letters, digits, dots, dashes or underscores"
    yield from start_faults(entry)
    yield from spec_faults(entry.get("profile"), entry.get("overrides", {}))
    hours = entry.get("deadline_hours")
    if hours is not None:
        if isinstance(hours, bool) or not isinstance(hours, int | float) or not 0 < hours <= YEAR:
            yield "deadline_hours", f"is {json.dumps(hours)}, must be a number above 0 and up to {YEAR}"
        if executor() not in CALLING:
            yield "deadline_hours", f"needs {' or '.join(CALLING)}: a deadline missed under {executor()} would stop Airflow's scheduler"


def executor() -> str:
    """The class name of the executor that Airflow hands a missed deadline to."""
    return conf.get("core", "executor", fallback=CALLING[0]).split(",")[0].split(":")[0].strip().rpartition(".")[2]


def start_faults(entry: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """What is wrong with the fields that say when an entry runs."""
    cron, assets = entry.get("cron"), entry.get("assets")
    if ("cron" in entry) == ("assets" in entry):
        yield "cron", "or assets must say when it runs: write one of them"
    elif "cron" in entry:
        try:
            CronTriggerTimetable(cron, timezone="UTC").validate()
        except (AirflowTimetableInvalid, AttributeError, TypeError):
            yield "cron", f'is {json.dumps(cron)}, must be five fields such as "0 3 * * *", or @daily and the like'
    elif not isinstance(assets, list) or not assets or not all(isinstance(name, str) and name for name in assets):
        yield "assets", f"is {json.dumps(assets)}, must be a list of asset names such as {json.dumps(TRIGGERS)}"
    else:
        for name in assets:
            if name.startswith(OURS) and name not in TRIGGERS:
                yield "assets", f"names {name}, which starts no compression: choose {' or '.join(TRIGGERS)}, or an asset of your own"


def spec_faults(profile: Any, overrides: Any) -> Iterator[tuple[str, str]]:
    """What is wrong with the profile and the fields that differ from it, by the schema that the trigger form is made from."""
    if not isinstance(overrides, dict):
        yield "overrides", f"is {json.dumps(overrides)}, must be an object of the spec's fields"
        return
    known = params()
    asked = {"profile": (known.pop("profile"), profile)}
    asked |= {f"overrides.{name}": (known.get(name), value) for name, value in overrides.items()}
    yield from ((name, fault) for name, (param, value) in asked.items() if (fault := entries.field_fault(param, value)))
