"""A phase on several nodes: an Indexed Job, one pod a node, which meet at the pod of index 0. Not for parsing either."""

import copy
import datetime
import time
from typing import Any

from airflow.sdk.exceptions import AirflowException
from kubernetes.client import models as k8s
from kubernetes.client.exceptions import ApiException

from launch import BAD_INPUT, DONE, OUT_OF_MEMORY
from pods import BASE, Pod, refusal

PORT = 29400
STATE = "job"
INDEX = "batch.kubernetes.io/job-completion-index"
KEPT_SECONDS = 24 * 3600
WAIT_SECONDS = 120
SETTLE_SECONDS = 10


class TrainingJob(Pod):
    """Follows the Job's pod of index 0, whose rank 0 alone writes the result. The Job ends with the first pod that fails."""

    def __init__(self, *, nodes: int, **asked: Any) -> None:
        super().__init__(**asked)
        self.nodes = nodes
        self.job: str | None = None

    def get_or_create_pod(self, pod_request_obj: k8s.V1Pod, context: Any) -> k8s.V1Pod:
        """The pod of index 0, of the Job that a lost execution left running or of a new one."""
        store = context["task_state_store"]
        name = store.get(STATE)
        if name is None or not self.runs(name):
            name = pod_request_obj.metadata.name
            store.set(STATE, name)
            self.hook.create_job(job_of(pod_request_obj, self.nodes, self.subdomain))
        self.job = name
        deadline = time.monotonic() + WAIT_SECONDS
        while time.monotonic() < deadline:
            for pod in self.pods(name):
                if (pod.metadata.annotations or {}).get(INDEX) == "0":
                    return pod
            time.sleep(1)
        raise AirflowException(f"Kubernetes made no pod for the job {name} in {WAIT_SECONDS} s: `kubectl describe job {name}` says why")

    def trigger_reentry(self, context: Any, event: dict[str, Any]) -> Any:
        """As with a pod; the Job goes once it is over."""
        self.job = context["task_state_store"].get(STATE)
        try:
            super().trigger_reentry(context, event)
        except Exception:
            self.delete()
            raise
        self.delete()

    def look(self, context: Any, event: dict[str, Any]) -> tuple[int, str]:
        """How the Job ended: well if its pod of index 0 did, else as the pod that dragged the others down."""
        first = super().look(context, event)
        if first[0] == DONE:
            return first
        deadline = time.monotonic() + SETTLE_SECONDS
        while any(ended_at(pod) is None for pod in self.pods(self.job)) and time.monotonic() < deadline:
            time.sleep(1)
        failed = [(ended, self.outcome_of(pod)) for pod in self.pods(self.job) if (ended := ended_at(pod))]
        return cause([one for one in failed if one[1][0] != DONE]) or first

    def process_pod_deletion(self, pod: k8s.V1Pod, *, reraise: bool = True) -> bool:
        """A pod goes with its Job."""
        return False

    def on_kill(self) -> None:
        """Delete the Job, which asks every rank to stop: they keep their checkpoint."""
        self._killed = True
        if self.job:
            self.delete()

    def runs(self, name: str) -> bool:
        """Whether there is such a Job, and it is not over."""
        try:
            return not self.hook.is_job_complete(self.hook.get_job(name, self.namespace))
        except ApiException as error:
            if error.status != 404:
                raise
            return False

    def pods(self, name: str) -> list[k8s.V1Pod]:
        """The pods of a Job."""
        return self.client.list_namespaced_pod(self.namespace, label_selector=f"job-name={name}").items

    def delete(self) -> None:
        """Delete the Job and its pods, if it is still there."""
        try:
            self.hook.batch_v1_client.delete_namespaced_job(self.job, self.namespace, propagation_policy="Background")
        except ApiException as error:
            if error.status != 404:
                self.log.warning("the job %s was not deleted: %s", self.job, refusal(error))


def job_of(pod: k8s.V1Pod, nodes: int, service: str) -> k8s.V1Job:
    """The Job of this pod on that many nodes; the processes meet at the pod of index 0, by its name in the service."""
    pod = copy.deepcopy(pod)
    name, space = pod.metadata.name, pod.metadata.namespace
    pod.spec.containers[0].args += ["--nodes", str(nodes), "--rendezvous", f"{name}-0.{service}.{space}:{PORT}"]
    told = {"labels": pod.metadata.labels, "annotations": pod.metadata.annotations}
    return k8s.V1Job(
        api_version="batch/v1",
        kind="Job",
        metadata=k8s.V1ObjectMeta(name=name, namespace=space, **told),
        spec=k8s.V1JobSpec(
            completion_mode="Indexed",
            completions=nodes,
            parallelism=nodes,
            backoff_limit=0,
            ttl_seconds_after_finished=KEPT_SECONDS,
            template=k8s.V1PodTemplateSpec(metadata=k8s.V1ObjectMeta(**told), spec=pod.spec),
        ),
    )


def ended_at(pod: k8s.V1Pod) -> datetime.datetime | None:
    """When a pod's phase was over, or nothing while it is not."""
    states = [one.state.terminated for one in pod.status.container_statuses or [] if one.name == BASE]
    return states[0].finished_at if states and states[0] else None


def cause(failed: list[tuple[datetime.datetime, tuple[int, str]]]) -> tuple[int, str] | None:
    """Why a Job failed: its ranks fall with the first one, but memory and bad input are causes whenever they were noticed."""
    for code in (OUT_OF_MEMORY, BAD_INPUT):
        for _, ended in failed:
            if ended[0] == code:
                return ended
    return min(failed, key=lambda one: one[0])[1] if failed else None
