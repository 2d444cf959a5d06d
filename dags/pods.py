"""What is asked of Kubernetes for a phase, and what the end of a pod means. Loads Airflow's provider: not for parsing."""

import json
import re
from typing import Any

from airflow.providers.cncf.kubernetes.operators.pod import KubernetesPodOperator
from airflow.sdk.exceptions import AirflowException
from kubernetes.client import models as k8s
from kubernetes.client.exceptions import ApiException
from kubernetes.config import ConfigException
from urllib3.exceptions import HTTPError

import settings
from launch import DONE, FAILED, OUT_OF_MEMORY, STOPPED, Ending
from settings import Resources, Settings

REFUSALS = (AirflowException, ApiException, HTTPError, ConfigException)
UID = 10001
BASE = "base"
LABELS = {"app.kubernetes.io/name": "effir", "app.kubernetes.io/component": "task"}
KILLED = {137, 143}
TOO_MUCH_DISK = re.compile(r"exceed(s|ed) (the|its)( \w+)* limit")
SCHEDULING_SECONDS = 24 * 3600
STARTING_SECONDS = 30 * 60
LOG_SECONDS = 60
TAIL_LINES = 50


class Pod(KubernetesPodOperator):
    """Notes how the phase ended, before its pod is deleted.

    outcome: exit code and sentence, once the pod is over
    """

    outcome: tuple[int, str] | None = None

    def trigger_reentry(self, context: Any, event: dict[str, Any]) -> Any:
        """Where the operator goes on when the pod is over, or is to be followed further (raises TaskDeferred)."""
        self.outcome = self.look(context, event)
        return super().trigger_reentry(context, event)

    def look(self, context: Any, event: dict[str, Any]) -> tuple[int, str]:
        """How the pod of an event ended."""
        try:
            pod = self.hook.get_pod(event["name"], event["namespace"])
        except ApiException as error:
            if error.status != 404:
                raise
            return (DONE, "") if event["status"] == "success" else (STOPPED, "the pod is gone")
        return self.outcome_of(pod, event.get("message") or "")

    def outcome_of(self, pod: k8s.V1Pod, message: str = "") -> tuple[int, str]:
        """What the end of a pod means, in a phase's own exit codes."""
        state = next((one.state for one in pod.status.container_statuses or [] if one.name == BASE), None)
        ended = state and state.terminated
        if ended and ended.exit_code == DONE:
            return DONE, ""
        if ended and ended.reason == "OOMKilled":
            return OUT_OF_MEMORY, "the container ran out of memory"
        if pod.status.reason:
            told = one_line(f"the pod is lost: {pod.status.reason}, {pod.status.message or 'no reason given'}")
            return (FAILED if TOO_MUCH_DISK.search(told) else STOPPED), told
        if not ended:
            waiting = state.waiting if state else None
            return FAILED, one_line(f"the pod was given up: {message or 'it is not over'} {(waiting and waiting.message) or ''}")
        if ended.exit_code in KILLED:
            return STOPPED, f"the container was killed ({ended.exit_code})"
        return ended.exit_code, self.sentence(pod) or f"exit code {ended.exit_code}, and no output"

    def sentence(self, pod: k8s.V1Pod) -> str:
        """The sentence that a phase ended with, from the end of its log."""
        place = (pod.metadata.name, pod.metadata.namespace)
        ending = Ending()
        try:
            log = self.client.read_namespaced_pod_log(*place, container=BASE, tail_lines=TAIL_LINES, _preload_content=False)
            for line in log.data.decode(errors="replace").splitlines():
                ending.hear(line)
        except (ApiException, HTTPError) as error:
            self.log.warning("the log of the pod cannot be read: %s", refusal(error))
        return ending.sentence


def pod_of(task: Any, command: list[str]) -> Pod:
    """The operator that runs `effir` with these arguments for a task: a pod, or several where the phase wants several nodes."""
    from job import TrainingJob

    told = settings.load()
    wanted = told.of(task.phase)
    asked = request(task, command, told)
    if wanted.resources.nodes > 1:
        return TrainingJob(nodes=wanted.resources.nodes, subdomain=told.training_service, **asked)
    return Pod(**asked)


def request(task: Any, command: list[str], told: Settings) -> dict[str, Any]:
    """What the operator is told."""
    wanted, access = told.of(task.phase), told.access_of(task.phase)
    return {
        "task_id": task.task_id,
        "execution_timeout": task.execution_timeout,
        "name": f"effir-{re.sub(r'[^a-z0-9]+', '-', task.task_id.lower())[:40].strip('-')}",
        "namespace": told.namespace,
        "labels": LABELS | {"effir/phase": task.phase},
        "image": wanted.image,
        "arguments": command,
        "env_vars": settings.handed_on(told.environment, task.phase),
        "env_from": [k8s.V1EnvFromSource(secret_ref=k8s.V1SecretEnvSource(name=name)) for name in access.secrets],
        "container_resources": limits(wanted.resources),
        "volumes": [
            k8s.V1Volume(name="tmp", empty_dir=k8s.V1EmptyDirVolumeSource(size_limit=wanted.resources.disk)),
            k8s.V1Volume(name="shm", empty_dir=k8s.V1EmptyDirVolumeSource(medium="Memory", size_limit=wanted.resources.shm)),
        ],
        "volume_mounts": [k8s.V1VolumeMount(name="tmp", mount_path="/tmp"), k8s.V1VolumeMount(name="shm", mount_path="/dev/shm")],
        "node_selector": wanted.node_selector,
        "tolerations": wanted.tolerations,
        "service_account_name": access.service_account,
        "automount_service_account_token": False,
        "image_pull_secrets": [k8s.V1LocalObjectReference(name=name) for name in told.image_pull_secrets],
        "pod_template_file": told.pod_template,
        "termination_grace_period": told.grace_seconds,
        "security_context": k8s.V1PodSecurityContext(
            run_as_non_root=True, run_as_user=UID, run_as_group=UID, fs_group=UID,
            seccomp_profile=k8s.V1SeccompProfile(type="RuntimeDefault"),
        ),
        "container_security_context": k8s.V1SecurityContext(
            run_as_non_root=True, read_only_root_filesystem=True, allow_privilege_escalation=False,
            capabilities=k8s.V1Capabilities(drop=["ALL"]),
        ),
        "deferrable": True,
        "durable": True,
        "do_xcom_push": False,
        "schedule_timeout_seconds": SCHEDULING_SECONDS,
        "startup_timeout_seconds": STARTING_SECONDS,
        "logging_interval": LOG_SECONDS,
        "log_events_on_failure": True,
        "log_pod_spec_on_failure": False,
        "on_finish_action": "delete_pod",
        "on_kill_action": "delete_pod",
    }  # fmt: skip


def limits(resources: Resources) -> k8s.V1ResourceRequirements:
    """A phase gets what it asks for, and no more: requests are limits."""
    asked = {"cpu": f"{resources.cpus:g}", "memory": resources.memory, "ephemeral-storage": resources.disk}
    gpus = {"nvidia.com/gpu": str(resources.gpus)} if resources.gpus else {}
    return k8s.V1ResourceRequirements(requests=asked | gpus, limits=asked | gpus)


def refusal(error: Exception) -> str:
    """What went wrong between here and Kubernetes, in one sentence."""
    if not isinstance(error, ApiException):
        return one_line(f"Kubernetes cannot be spoken to: {error}") if not isinstance(error, AirflowException) else one_line(str(error))
    try:
        told = json.loads(error.body)["message"]
    except (TypeError, ValueError, KeyError):
        told = error.body or ""
    return one_line(f"Kubernetes answered {error.status} {error.reason}: {told}")


def one_line(text: str) -> str:
    """Any text as one line of at most 500 characters."""
    return " ".join(text.split())[:500]
