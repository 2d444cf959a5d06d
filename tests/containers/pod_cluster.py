"""Pods and Jobs by name, each pod a container of a Docker engine: what the test double in pods_api.py knows."""

import contextlib
import json
import os
import threading
import time
import uuid
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import docker
from docker.errors import APIError, DockerException, ImageNotFound, NotFound
from pod_containers import Waits, container_settings, status, unsupported

INDEX = "batch.kubernetes.io/job-completion-index"
LABEL = "effir.pods-api"
LOOK_SECONDS = 0.2
GRACE_SECONDS = 30


class Refusal(Exception):
    """The API says no: a status code and a sentence."""

    def __init__(self, code: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.code, self.reason = code, reason


@dataclass
class Pod:
    """A pod that was asked for, the container that it became, and why it has none."""

    manifest: dict[str, Any]
    aliases: list[str]
    container: Any = None
    waits: Waits | None = None
    doomed: bool = False

    def told(self) -> dict[str, Any]:
        """The pod as the API tells it."""
        state, address = None, ""
        if self.container is not None:
            with contextlib.suppress(NotFound):
                self.container.reload()
                networks = self.container.attrs["NetworkSettings"]["Networks"].values()
                state, address = self.container.attrs["State"], next((one["IPAddress"] for one in networks), "")
        return self.manifest | {"status": status(self.manifest, state, self.waits, address)}

    @property
    def phase(self) -> str:
        """Pending, Running, Succeeded or Failed."""
        return self.told()["status"]["phase"]


@dataclass
class Cluster:
    """Pods and Jobs by namespace and name, events in their order."""

    engine: docker.DockerClient
    secrets: dict[str, dict[str, str]]
    network: str
    record: Path | None = None
    pods: dict[tuple[str, str], Pod] = field(default_factory=dict)
    jobs: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)
    events: list[dict[str, Any]] = field(default_factory=list)
    name: str = field(default_factory=lambda: str(os.getpid()))
    noting: threading.Lock = field(default_factory=threading.Lock)

    def make_pod(self, space: str, asked: dict[str, Any], aliases: tuple[str, ...] = ()) -> dict[str, Any]:
        """Take a pod on; its container is made meanwhile."""
        if problem := unsupported(asked["spec"]):
            raise Refusal(422, "Invalid", f"this is the double that the tests have for a cluster: {problem}")
        pod = Pod(stamped(space, "Pod", "v1", asked), list(aliases))
        key = (space, pod.manifest["metadata"]["name"])
        if key in self.pods:
            raise Refusal(409, "AlreadyExists", f'pods "{key[1]}" already exists')
        self.pods[key] = pod
        threading.Thread(target=self.start, args=(pod,)).start()
        return pod.told()

    def start(self, pod: Pod) -> None:
        """Make a pod's container and start it, or note why it waits."""
        try:
            settings = container_settings(pod.manifest, self.secrets) | self.place(pod)
            self.engine.images.get(settings["image"])
            pod.container = self.engine.containers.create(labels={LABEL: self.name}, **settings)
            self.tell(pod, "Created", f"Created container {pod.manifest['spec']['containers'][0]['name']}")
            pod.container.start()
            self.note(pod)
            self.tell(pod, "Started", "Started container")
        except Waits as waits:
            pod.waits = waits
        except ImageNotFound:
            pod.waits = Waits("ErrImageNeverPull", f'image "{pod.manifest["spec"]["containers"][0]["image"]}" is not on the engine')
        except APIError as error:
            pod.waits = Waits("CreateContainerError", error.explanation or str(error))
        if pod.waits:
            self.tell(pod, pod.waits.reason, str(pod.waits))

    def note(self, pod: Pod) -> None:
        """Write down a pod that started: its manifest, and what the engine says of its container."""
        pod.container.reload()
        about = pod.container.attrs
        told = {"user": about["Config"]["User"], "read_only": about["HostConfig"]["ReadonlyRootfs"], "image": about["Config"]["Image"]}
        if self.record:
            with self.noting, self.record.open("a") as stream:
                stream.write(json.dumps({"pod": pod.manifest, "container": told}) + "\n")

    def place(self, pod: Pod) -> dict[str, Any]:
        """A container's network; pods of a Job find each other by name, but not on the engine's own bridge, which knows none."""
        if self.network == "host" or pod.manifest["spec"].get("hostNetwork"):
            return {"network_mode": "host", "hostname": None, "extra_hosts": dict.fromkeys(pod.aliases, "127.0.0.1")}
        aliases = pod.aliases if self.network != "bridge" else []
        ends = {self.network: self.engine.api.create_endpoint_config(aliases=aliases)}
        return {"network": self.network, "networking_config": ends if aliases else None}

    def pod(self, space: str, name: str) -> Pod:
        """A pod by its name."""
        if (space, name) not in self.pods:
            raise Refusal(404, "NotFound", f'pods "{name}" not found')
        return self.pods[space, name]

    def delete_pod(self, space: str, name: str, grace: int | None) -> dict[str, Any]:
        """SIGTERM, and SIGKILL after the grace; then the pod is gone."""
        pod = self.pod(space, name)
        if not pod.doomed:
            pod.doomed = True
            pod.manifest["metadata"]["deletionTimestamp"] = now()
            usual = pod.manifest["spec"].get("terminationGracePeriodSeconds", GRACE_SECONDS)
            threading.Thread(target=self.end, args=((space, name), pod, usual if grace is None else grace)).start()
        return pod.told()

    def end(self, key: tuple[str, str], pod: Pod, grace: int) -> None:
        """Stop and remove a pod's container."""
        self.tell(pod, "Killing", "Stopping container")
        while pod.container is None and pod.waits is None:
            time.sleep(LOOK_SECONDS)
        if pod.container is not None:
            with contextlib.suppress(DockerException):
                docker.from_env(timeout=grace + 60).containers.get(pod.container.id).stop(timeout=grace)
                time.sleep(LOOK_SECONDS)
                pod.container.remove(force=True)
        self.pods.pop(key, None)

    def tell(self, pod: Pod, reason: str, message: str) -> None:
        """An event of a pod."""
        about = pod.manifest["metadata"]
        made = stamped(about["namespace"], "Event", "v1", {"metadata": {"name": f"{about['name']}.{uuid.uuid4().hex[:12]}"}})
        made["metadata"]["resourceVersion"] = str(len(self.events) + 1)
        involved = {"kind": "Pod", "name": about["name"], "namespace": about["namespace"], "uid": about["uid"]}
        self.events.append(made | {"involvedObject": involved, "reason": reason, "message": message, "type": "Normal", "count": 1})

    def make_job(self, space: str, asked: dict[str, Any]) -> dict[str, Any]:
        """A Job of all its pods at once; the first that fails takes the others with it."""
        job = stamped(space, "Job", "batch/v1", asked)
        name, template = job["metadata"]["name"], job["spec"]["template"]
        service = template["spec"].get("subdomain") or "effir"
        self.jobs[space, name] = job
        for index in range(job["spec"].get("completions", 1)):
            about = template.get("metadata") or {}
            labels = (about.get("labels") or {}) | {"job-name": name, INDEX: str(index)}
            metadata = {"name": f"{name}-{index}-{uuid.uuid4().hex[:5]}", "labels": labels, "annotations": {INDEX: str(index)}}
            spec = json.loads(json.dumps(template["spec"])) | {"hostname": f"{name}-{index}"}
            spec["containers"][0]["env"] = [
                *(spec["containers"][0].get("env") or []),
                {"name": "JOB_COMPLETION_INDEX", "value": str(index)},
            ]
            names = (f"{name}-{index}.{service}.{space}", f"{name}-{index}.{service}")
            everybody = [f"{name}-{one}.{service}.{space}" for one in range(job["spec"].get("completions", 1))]
            self.make_pod(space, {"metadata": metadata, "spec": spec}, tuple(everybody) if self.network == "host" else names)
        threading.Thread(target=self.follow, args=(space, name), daemon=True).start()
        return self.job(space, name)

    def of_job(self, space: str, name: str) -> list[tuple[str, Pod]]:
        """The pods of a Job that are left."""
        return [(key[1], pod) for key, pod in list(self.pods.items()) if key[0] == space and labelled(pod.manifest, f"job-name={name}")]

    def follow(self, space: str, name: str) -> None:
        """End the other pods of a Job when one has failed."""
        while (space, name) in self.jobs and not any(pod.phase == "Failed" for _, pod in self.of_job(space, name)):
            time.sleep(LOOK_SECONDS)
        for one, pod in self.of_job(space, name):
            if pod.phase == "Running":
                with contextlib.suppress(Refusal):
                    self.delete_pod(space, one, None)

    def job(self, space: str, name: str) -> dict[str, Any]:
        """A Job with its status."""
        if (space, name) not in self.jobs:
            raise Refusal(404, "NotFound", f'jobs.batch "{name}" not found')
        job = self.jobs[space, name]
        phases = [pod.phase for _, pod in self.of_job(space, name)]
        told: dict[str, Any] = {"succeeded": phases.count("Succeeded"), "failed": phases.count("Failed"), "active": phases.count("Running")}
        if told["failed"]:
            told["conditions"] = [{"type": "Failed", "status": "True", "reason": "BackoffLimitExceeded"}]
        elif told["succeeded"] == job["spec"].get("completions", 1):
            told["conditions"] = [{"type": "Complete", "status": "True"}]
        return job | {"status": told}

    def delete_job(self, space: str, name: str) -> dict[str, Any]:
        """Delete a Job and its pods."""
        job = self.job(space, name)
        del self.jobs[space, name]
        for one, _ in self.of_job(space, name):
            self.delete_pod(space, one, None)
        return job

    def clear(self) -> None:
        """Remove every container that was made here."""
        while ours := self.engine.containers.list(all=True, filters={"label": f"{LABEL}={self.name}"}):
            for one in ours:
                with contextlib.suppress(DockerException):
                    one.remove(force=True)
            time.sleep(LOOK_SECONDS)


def stamped(space: str, kind: str, version: str, asked: dict[str, Any]) -> dict[str, Any]:
    """An object with what an API server adds to it."""
    about = dict(asked.get("metadata") or {})
    about.setdefault("name", about.get("generateName", "") + uuid.uuid4().hex[:5])
    about |= {"namespace": space, "uid": str(uuid.uuid4()), "creationTimestamp": now(), "resourceVersion": "1"}
    return asked | {"kind": kind, "apiVersion": version, "metadata": about}


def labelled(made: dict[str, Any], selector: str) -> bool:
    """Whether an object has the labels that a selector asks for: a=b, a!=b, a, !a, with commas."""
    labels = made["metadata"].get("labels") or {}
    for term in filter(None, selector.split(",")):
        name, unequal, value = term.partition("!=") if "!=" in term else term.partition("=")
        if unequal == "!=":
            fits = labels.get(name) != value
        elif unequal:
            fits = labels.get(name) == value.removeprefix("=")
        else:
            fits = (name.removeprefix("!") in labels) != name.startswith("!")
        if not fits:
            return False
    return True


def now() -> str:
    """The time, as Kubernetes writes it."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
