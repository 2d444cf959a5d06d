"""The phase in a pod of its own on Kubernetes; the task is deferred meanwhile and takes no slot."""

from collections.abc import Callable
from typing import Any

from airflow.sdk.exceptions import TaskDeferred

from launch import DONE, FAILED, Phase


class PodPhase(Phase):
    """Airflow's KubernetesPodOperator does the work: it makes the pod, or finds the one that a lost execution left, and follows it.

    It is held here, not inherited: its fields and this task's have the same names, and it need not be loaded to parse a DAG.
    """

    def launch(self, command: list[str], context: Any) -> tuple[int, str]:
        """Make the pod, and defer; raises TaskDeferred. Returns only where the pod turns out to be over already."""
        return self.follow(command, lambda pod: pod.execute_async(context))

    def resume(self, context: Any, event: dict[str, Any]) -> dict[str, Any]:
        """Where the task goes on when the pod is over."""
        return self.finish(context, *self.follow(self.command(context), lambda pod: pod.trigger_reentry(context, event)))

    def follow(self, command: list[str], step: Callable[[Any], Any]) -> tuple[int, str]:
        """Let the operator do a step; returns how the pod ended."""
        from pods import REFUSALS, pod_of, refusal

        self.pod = pod_of(self, command)
        try:
            step(self.pod)
        except TaskDeferred as deferred:
            raise TaskDeferred(trigger=deferred.trigger, method_name="resume", timeout=deferred.timeout) from None
        except REFUSALS as error:
            if self.pod.outcome is None:
                return FAILED, refusal(error)
            if self.pod.outcome[0] == DONE:
                self.log.warning("the phase is done, but its pod was not cleared away: %s", refusal(error))
        return self.pod.outcome

    def on_kill(self) -> None:
        """Delete the pod, which asks the phase to stop: it keeps its checkpoint."""
        if pod := getattr(self, "pod", None):
            pod.on_kill()
