"""From what the tasks of a run have to do to how long they take on a machine, and what that costs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from effir.forecast import schedule
from effir.forecast.hardware import Hardware
from effir.forecast.judging import tasks
from effir.forecast.schedule import Job, Span
from effir.forecast.volume import Volume
from effir.forecast.work import Work

TOGETHER = 0.9
"""Share of its speed that a device keeps where several share a phase."""
FILLED = 0.9
"""Share of a device's memory that a phase can use."""
SUMMED = ("tasks", "tokens", "device_hours", "cost", "read", "written", "stored")


@dataclass(frozen=True)
class Estimate:
    """One task: what it does, what it asks of the machine, when it runs, and the devices (on a processor: cores) that it holds."""

    work: Work
    job: Job
    span: Span
    held: int

    @property
    def device_hours(self) -> float:
        """From its start to its end."""
        return self.held * (self.span.end - self.span.start) / 3600


def forecast(volume: Volume, hardware: Hardware) -> dict[str, Any]:
    """The forecast of a run as plain JSON: phases (tasks of one kind added up), totals, the critical chain, every task's seconds."""
    return summary(estimate(tasks(volume, hardware.devices), hardware), hardware) | {"spec": volume.spec.model_dump()}


def estimate(works: Sequence[Work], hardware: Hardware) -> dict[str, Estimate]:
    """Every task by name, placed on the machine."""
    jobs = [job(one, hardware) for one in works]
    spans = schedule.place(jobs, hardware.devices, hardware.cores, hardware.shared)
    return {
        one.name: Estimate(one, placed, spans[one.name], hardware.cores if hardware.shared else placed.slots if one.devices else 0)
        for one, placed in zip(works, jobs, strict=True)
    }


def job(work: Work, hardware: Hardware) -> Job:
    """What a task asks of the machine, in seconds.

    On one core: start, imports, what Python does, and what goes over the network. On all cores or on its devices: matrix products.
    """
    devices = hardware.devices if work.devices < 0 else work.devices
    together = devices * TOGETHER if devices > 1 else 1.0
    core = work.core + work.divided / max(devices, 1) + hardware.imports * work.heavy
    serial = hardware.start + core / hardware.core + (work.read + work.written) / hardware.storage + work.network / hardware.network
    parallel = work.seconds + work.processor / hardware.processor + work.traffic / hardware.bandwidth
    rates = {"encode": hardware.encode, "train": hardware.train, "float32": hardware.float32, "outside": hardware.outside}
    parallel += sum(getattr(work, name) / rate for name, rate in rates.items()) / together
    return Job(work.name, work.after, max(devices, int(work.slot)), hardware.launch, serial, parallel)


def summary(found: Mapping[str, Estimate], hardware: Hardware) -> dict[str, Any]:
    """Estimates added up by phase, as plain JSON. Seconds, bytes, hours of devices (or cores); `kept`: the machine's price throughout."""
    price = hardware.price / hardware.cores if hardware.shared else hardware.price
    rows: dict[str, dict[str, Any]] = {}
    for one in found.values():
        row = rows.setdefault(one.work.phase, {"phase": one.work.phase, **dict.fromkeys(SUMMED, 0), "begins": one.span.start, "ends": 0.0})
        added = {name: getattr(one.work, name) for name in ("tokens", "read", "written", "stored")}
        added |= {"tasks": 1, "device_hours": one.device_hours, "cost": one.device_hours * price}
        row.update({name: row[name] + value for name, value in added.items()})
        row["begins"], row["ends"] = min(row["begins"], one.span.start), max(row["ends"], one.span.end)
    for row in rows.values():
        members = [one for one in found.values() if one.work.phase == row["phase"]]
        row["wall"] = row["ends"] - row["begins"]
        row["busy"] = sum(one.job.parallel for one in members) / max(sum(one.span.end - one.span.start for one in members), 1e-9)
        row["memory"] = max(one.work.memory for one in members)
        row["fits"] = row["memory"] <= FILLED * hardware.memory
    wall = max(one.span.end for one in found.values())
    totals = {name: sum(row[name] for row in rows.values()) for name in SUMMED}
    chain = schedule.critical([one.job for one in found.values()], {name: one.span for name, one in found.items()})
    return {
        "hardware": hardware.to_json(),
        "unit": "core hours" if hardware.shared else "GPU hours",
        "phases": list(rows.values()),
        "totals": totals | {"wall": wall, "kept": wall / 3600 * hardware.devices * hardware.price},
        "critical": [found[name].work.phase for name in chain],
        "seconds": {name: one.span.seconds for name, one in found.items()},
    }


def against(found: Mapping[str, Any], measured: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Predicted and measured seconds of every task that a run computed: {name, predicted, measured, ratio}.

    measured: a run's summary, as `effir run --json` prints it. What came from the cache is left out.
    """
    rows = []
    for one in measured["phases"]:
        if one["name"] in found["seconds"] and not one["cached"]:
            predicted = found["seconds"][one["name"]]
            rows.append({"name": one["name"], "predicted": predicted, "measured": one["seconds"], "ratio": predicted / one["seconds"]})
    return rows
