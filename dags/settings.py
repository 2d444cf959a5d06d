"""What the runners are told: the JSON file that EFFIR_RUNNER_SETTINGS names. docs/runners.md lists its keys."""

import json
import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

PHASES = tuple(json.loads((Path(__file__).parent / "phases.json").read_text()))
ROLES = {name: one["phases"] for name, one in json.loads((Path(__file__).parent / "roles.json").read_text()).items() if one["phases"]}
CREDENTIALS = "EFFIR_CREDENTIALS"
RUNNERS = ("process", "docker", "kubernetes")
UNITS = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}
QUANTITY = re.compile(rf"(\d+(?:\.\d+)?)({'|'.join(UNITS)})")
MOUNT = re.compile(r"/[^:]*:/[^:]*:(ro|rw)|[^:/]+:/[^:]*:(ro|rw)")
NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")
TOLERATION = {"key", "operator", "value", "effect", "tolerationSeconds"}


@dataclass(frozen=True)
class Resources:
    """What a phase gets of each machine: cores, GPUs, quantities of memory, /dev/shm and scratch disk, processes; and how many machines."""

    cpus: float = 2
    memory: str = "8Gi"
    gpus: int = 0
    shm: str = "1Gi"
    disk: str = "20Gi"
    processes: int = 1
    nodes: int = 1


@dataclass(frozen=True)
class Wanted:
    """What one phase runs in."""

    image: str
    resources: Resources
    node_selector: dict[str, str]
    tolerations: list[dict[str, Any]]


@dataclass(frozen=True)
class Access:
    """What lets one phase into S3 and MLflow."""

    secrets: tuple[str, ...]
    mounts: tuple[str, ...]
    service_account: str | None


@dataclass(frozen=True)
class Settings:
    """A settings file: what holds for every phase, `phases`, what some get instead, and `roles`, what some are let in with."""

    image: str = ""
    environment: tuple[str, ...] = ()
    secrets: tuple[str, ...] = ()
    network: str | None = None
    mounts: tuple[str, ...] = ()
    namespace: str = "effir"
    service_account: str | None = None
    pod_template: str | None = None
    training_service: str = "effir-training"
    node_selector: dict[str, str] = field(default_factory=dict)
    tolerations: list[dict[str, Any]] = field(default_factory=list)
    image_pull_secrets: tuple[str, ...] = ()
    grace_seconds: int = 120
    resources: Resources = field(default_factory=Resources)
    phases: dict[str, dict[str, Any]] = field(default_factory=dict)
    roles: dict[str, dict[str, Any]] = field(default_factory=dict)

    def of(self, phase: str) -> Wanted:
        """What a phase runs in. The node selector and tolerations of the top level are for phases with GPUs."""
        own = dict(self.phases.get(phase, {}))
        image = own.pop("image", self.image)
        selector, tolerations = own.pop("node_selector", None), own.pop("tolerations", None)
        resources = replace(self.resources, **own)
        usual = (self.node_selector, self.tolerations) if resources.gpus else ({}, [])
        return Wanted(image, resources, usual[0] if selector is None else selector, usual[1] if tolerations is None else tolerations)

    def access_of(self, phase: str) -> Access:
        """What lets a phase in: the role's secrets and mounts come after those of every phase; another role's are out of its reach."""
        own = self.roles.get(role_of(phase), {})
        account = own.get("service_account", self.service_account)
        return Access((*self.secrets, *own.get("secrets", ())), (*self.mounts, *own.get("mounts", ())), account)


def role_of(phase: str) -> str:
    """The role of a phase, as roles.json has it."""
    return next(role for role, phases in ROLES.items() if phase in phases)


def handed_on(names: Iterable[str], phase: str) -> dict[str, str]:
    """Those of Airflow's variables that a phase is given as they are; in CREDENTIALS, {role} stands for the phase's role."""
    found = {name: os.environ[name] for name in names if name in os.environ}
    return found | {CREDENTIALS: found[CREDENTIALS].replace("{role}", role_of(phase))} if CREDENTIALS in found else found


class Kind(NamedTuple):
    """What a value has to be."""

    told: str
    fits: Callable[[Any], bool]


def is_list(fits: Callable[[Any], bool]) -> Callable[[Any], bool]:
    """A list of such."""
    return lambda value: isinstance(value, list) and all(map(fits, value))


def is_text(value: Any) -> bool:
    """A text that is not empty."""
    return isinstance(value, str) and bool(value.strip())


def is_count(least: int) -> Callable[[Any], bool]:
    """A whole number, not below."""
    return lambda value: type(value) is int and value >= least


def is_like(pattern: re.Pattern[str]) -> Callable[[Any], bool]:
    """A text of this form."""
    return lambda value: isinstance(value, str) and pattern.fullmatch(value) is not None


def is_quantity(value: Any) -> bool:
    """A size above zero."""
    return is_like(QUANTITY)(value) and size(value) > 0


def is_words(value: Any) -> bool:
    """Texts by name."""
    return isinstance(value, dict) and all(is_text(name) and isinstance(one, str) for name, one in value.items())


def is_objects(value: Any) -> bool:
    """Objects by name."""
    return isinstance(value, dict) and all(isinstance(one, dict) for one in value.values())


def is_toleration(value: Any) -> bool:
    """A toleration as a pod's manifest has it."""
    return isinstance(value, dict) and set(value) <= TOLERATION


TEXT = Kind("a text", is_text)
NAMES = Kind("a list of names", is_list(is_like(NAME)))
AT_LEAST_ONE = Kind("a whole number of at least 1", is_count(1))
SIZE = Kind("a size such as 512Mi or 8Gi, in quotes", is_quantity)
RESOURCES = {
    "cpus": Kind("a number above 0", lambda value: type(value) in (int, float) and value > 0),
    "memory": SIZE,
    "gpus": Kind("a whole number of at least 0", is_count(0)),
    "shm": SIZE,
    "disk": SIZE,
    "processes": AT_LEAST_ONE,
    "nodes": AT_LEAST_ONE,
}
MOUNTS = Kind('a list of "SOURCE:TARGET:ro" or "SOURCE:TARGET:rw", the target an absolute path', is_list(is_like(MOUNT)))
ACCESS = {"secrets": NAMES, "mounts": MOUNTS, "service_account": TEXT}
PLACE = {
    "image": Kind("the name of an image with its tag", is_text),
    "node_selector": Kind('labels of nodes, {"label": "value"}', is_words),
    "tolerations": Kind(f"a list of tolerations, each with keys among {', '.join(sorted(TOLERATION))}", is_list(is_toleration)),
}
KEYS = PLACE | {
    "environment": NAMES,
    "secrets": NAMES,
    "network": TEXT,
    "mounts": MOUNTS,
    "namespace": TEXT,
    "service_account": TEXT,
    "pod_template": TEXT,
    "training_service": TEXT,
    "image_pull_secrets": NAMES,
    "grace_seconds": AT_LEAST_ONE,
    "resources": Kind("an object", lambda value: isinstance(value, dict)),
    "phases": Kind('an object, {"phase": {…}}', is_objects),
    "roles": Kind('an object, {"role": {…}}', is_objects),
}


def load() -> Settings:
    """The settings of the runner that EFFIR_RUNNER names. Raises ValueError, one sentence, where they are absent or wrong."""
    runner, path = os.environ.get("EFFIR_RUNNER") or RUNNERS[0], os.environ.get("EFFIR_RUNNER_SETTINGS")
    if not path:
        if runner == RUNNERS[0]:
            return Settings()
        raise ValueError(f"EFFIR_RUNNER is {runner!r}: name the JSON file with its settings in EFFIR_RUNNER_SETTINGS (docs/runners.md)")
    try:
        told = json.loads(Path(path).read_text())
    except OSError as error:
        raise ValueError(f"EFFIR_RUNNER_SETTINGS names {path}, which cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise ValueError(f"EFFIR_RUNNER_SETTINGS names {path}, which is no JSON: {error}") from None
    return parse(told, path, runner)


def parse(told: Any, where: str, runner: str) -> Settings:
    """Settings out of JSON, checked. Raises ValueError, one sentence."""
    if not isinstance(told, dict):
        raise ValueError(f"{where} should hold one JSON object")
    check(told, KEYS, where)
    check(told.get("resources", {}), RESOURCES, f"{where}, resources")
    check(told.get("phases", {}), dict.fromkeys(PHASES, KEYS["resources"]), f"{where}, phases", "phase")
    for phase, own in told.get("phases", {}).items():
        check(own, RESOURCES | PLACE, f"{where}, phases.{phase}")
    check(told.get("roles", {}), dict.fromkeys(ROLES, KEYS["resources"]), f"{where}, roles", "role")
    for role, own in told.get("roles", {}).items():
        check(own, ACCESS, f"{where}, roles.{role}")
    lists = {name: tuple(value) for name, value in told.items() if KEYS[name] is NAMES or name == "mounts"}
    settings = Settings(**(told | lists | {"resources": Resources(**told.get("resources", {}))}))
    for phase in PHASES:
        fits_runner(settings.of(phase), phase, where, runner)
    return settings


def check(given: dict[str, Any], kinds: dict[str, Kind], where: str, noun: str = "key") -> None:
    """Raises ValueError at the first key that there is not, or value that is not of its kind."""
    for name, value in given.items():
        if name not in kinds:
            raise ValueError(f"{where}: there is no {noun} {name!r}; choose among {', '.join(kinds)}")
        if not kinds[name].fits(value):
            raise ValueError(f"{where}: {name} is {json.dumps(value)}, but has to be {kinds[name].told}")


def fits_runner(wanted: Wanted, phase: str, where: str, runner: str) -> None:
    """Raises ValueError where the runner cannot give a phase what it wants."""
    resources = wanted.resources
    if runner != "process" and not wanted.image:
        raise ValueError(f"{where}: image is missing: the task image with its tag, such as effir-task:0.1.0")
    if runner != "kubernetes" and resources.nodes > 1:
        raise ValueError(f"{where}: {phase} wants {resources.nodes} nodes, and the runner {runner!r} has one: use EFFIR_RUNNER=kubernetes")
    if 0 < resources.gpus < resources.processes:
        raise ValueError(f"{where}: {phase} wants {resources.processes} processes on {resources.gpus} GPUs: at most one a GPU")
    if size(resources.shm) > size(resources.memory):
        raise ValueError(f"{where}: {phase} wants {resources.shm} of /dev/shm out of {resources.memory} of memory: give it more memory")


def size(quantity: str) -> int:
    """Bytes of a Kubernetes quantity, such as 512Mi."""
    number, unit = QUANTITY.fullmatch(quantity).groups()
    return int(float(number) * UNITS[unit])
