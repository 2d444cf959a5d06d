"""The phase in a container of its own on a Docker engine (DOCKER_HOST), removed when it is over."""

import os
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any

import settings
from launch import BAD_INPUT, DONE, FAILED, OUT_OF_MEMORY, STOPPED, Ending, Phase, name_of, run_of
from settings import Settings, size

SOCKET = "unix:///var/run/docker.sock"
ENDING = str(Path(__file__).parent / "end_container.py")
KILLED = {137, 143}
ENGINE_SECONDS = 60


class DockerPhase(Phase):
    """Its output goes into the task's log; it is asked to stop when the task is ended, and keeps its checkpoint."""

    container: str | None = None

    def launch(self, command: list[str], context: Any) -> tuple[int, str]:
        """Run the container. A container that an earlier, lost execution of this task left behind is ended first."""
        from docker.errors import APIError, ImageNotFound

        told = settings.load()
        labels = labels_of(context)
        self.clear(labels, told.grace_seconds)
        try:
            self.container = self.create(command, labels, told)
            output = self.client.attach(self.container, stream=True, logs=True)
            self.client.start(self.container)
            ended = self.follow(output)
        except ImageNotFound:
            return BAD_INPUT, f"the Docker engine has no image {told.of(self.phase).image}: build it with `make images`, or pull it"
        except APIError as error:
            ended = FAILED, f"the Docker engine refused: {error.explanation}"
        except BaseException:
            self.on_kill()
            raise
        self.remove(self.container)
        return ended

    def follow(self, output: Iterable[bytes]) -> tuple[int, str]:
        """Hand the container's output on until it is over."""
        from docker.errors import NotFound

        ending = Ending()
        for line in lines(output):
            print(line, flush=True)
            ending.hear(line)
        try:
            code = self.client.wait(self.container, timeout=None)["StatusCode"]
            return outcome(code, self.client.inspect_container(self.container)["State"], ending.sentence)
        except NotFound:
            return STOPPED, "the container was removed by somebody else"

    def on_kill(self) -> None:
        """Ask the phase to stop, and see to it that its container goes, also when this process is gone by then."""
        if self.container:
            ending = [sys.executable, ENDING, engine(), self.container, str(settings.load().grace_seconds)]
            subprocess.Popen(ending, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)

    @cached_property
    def client(self) -> Any:
        """The engine."""
        from airflow.providers.docker.hooks.docker import DockerHook

        return DockerHook(docker_conn_id=None, base_url=engine(), timeout=ENGINE_SECONDS).api_client

    def create(self, command: list[str], labels: dict[str, str], told: Settings) -> str:
        """The id of a container that is ready to start."""
        wanted = told.of(self.phase)
        return self.client.create_container(
            wanted.image,
            command,
            name=re.sub(r"[^a-zA-Z0-9_.-]+", "-", "-".join(["effir", *labels.values()])),
            labels=labels,
            environment=self.environment(told),
            stop_timeout=told.grace_seconds,
            host_config=self.client.create_host_config(**host(told.access_of(self.phase).mounts, told.network, wanted.resources)),
        )["Id"]

    def environment(self, told: Settings) -> dict[str, str]:
        """What is handed on of Airflow's variables; the secret ones are masked in every log."""
        from airflow.sdk.log import mask_secret

        secrets = told.access_of(self.phase).secrets
        for name in secrets:
            if name not in os.environ:
                print(f"warning: the secret {name} is not among Airflow's variables; the phase goes without it", flush=True)
            elif os.environ[name]:
                mask_secret(os.environ[name])
        return settings.handed_on((*told.environment, *secrets), self.phase)

    def clear(self, labels: dict[str, str], grace: int) -> None:
        """End and remove the containers of earlier tries."""
        same = [f"{name}={value}" for name, value in labels.items() if name != "effir.try"]
        for one in self.client.containers(all=True, filters={"label": same}):
            print(f"ending the container {one['Names'][0]}, which an earlier execution of this task left behind", flush=True)
            self.client.stop(one["Id"], timeout=grace)
            self.remove(one["Id"])

    def remove(self, container: str | None) -> None:
        """Remove a container with its volumes, if it is still there."""
        from docker.errors import NotFound

        if container:
            with suppress(NotFound):
                self.client.remove_container(container, v=True, force=True)


def engine() -> str:
    """The address of the Docker engine."""
    return os.environ.get("DOCKER_HOST") or SOCKET


def host(mounts: tuple[str, ...], network: str | None, resources: settings.Resources) -> dict[str, Any]:
    """How a container is confined: what it may use, and that it may write nothing but /tmp."""
    from docker.types import DeviceRequest

    memory = size(resources.memory)
    scratch = {} if any(mount.split(":")[1] == "/tmp" for mount in mounts) else {"/tmp": f"exec,mode=1777,size={size(resources.disk)}"}
    return {
        "read_only": True,
        "tmpfs": scratch,
        "shm_size": size(resources.shm),
        "mem_limit": memory,
        "memswap_limit": memory,
        "nano_cpus": int(resources.cpus * 1e9),
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges"],
        "device_requests": [DeviceRequest(count=resources.gpus, capabilities=[["gpu"]])] if resources.gpus else None,
        "network_mode": network,
        "binds": list(mounts),
    }


def labels_of(context: Any) -> dict[str, str]:
    """What tells a container's execution: DAG, run, task with its index, try."""
    task = context["ti"]
    return {"effir.dag": task.dag_id, "effir.run": run_of(context), "effir.task": name_of(context), "effir.try": str(task.try_number)}


def outcome(code: int, state: dict[str, Any], sentence: str) -> tuple[int, str]:
    """What a container's end means, in a phase's own exit codes."""
    if state["OOMKilled"] and code not in (DONE, BAD_INPUT, OUT_OF_MEMORY):
        return OUT_OF_MEMORY, "the container ran out of memory"
    if code in KILLED:
        return STOPPED, f"the container was killed ({code})"
    return code, sentence or state["Error"] or f"exit code {code}, and no output"


def lines(chunks: Iterable[bytes]) -> Iterator[str]:
    """Whole lines out of pieces of output."""
    rest = b""
    for chunk in chunks:
        *whole, rest = (rest + chunk).split(b"\n")
        yield from (one.decode(errors="replace").rstrip("\r") for one in whole)
    if rest:
        yield rest.decode(errors="replace")
