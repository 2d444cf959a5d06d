"""The phase as a process beside the task: the embedded stack's runner."""

import ctypes
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import settings
from launch import OUT_OF_MEMORY, STOPPED, Ending, Phase

DIE_WITH_PARENT = 1
AIRFLOWS = ("AIRFLOW", "_AIRFLOW")
LOGINS = {
    "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE", "AWS_SHARED_CREDENTIALS_FILE",
    "EFFIR_AIRFLOW_PASSWORD", "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN",
}  # fmt: skip


class ProcessPhase(Phase):
    """Its output goes into the task's log; it ends when the task is ended."""

    def launch(self, command: list[str], context: Any) -> tuple[int, str]:
        """EFFIR_COMMAND names another program than the `effir` beside this Python."""
        effir = os.environ.get("EFFIR_COMMAND") or shlex.quote(str(Path(sys.executable).parent / "effir"))
        env = settings.handed_on(filter(belongs_to_phases, os.environ), self.phase)
        ending, kills = Ending(), memory_kills()
        with subprocess.Popen(
            [*shlex.split(effir), *command], env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
            preexec_fn=end_with_parent,
        ) as self.process:  # fmt: skip
            for line in self.process.stdout:
                print(line, end="", flush=True)
                ending.hear(line)
        return outcome(self.process.returncode, memory_kills() > kills, ending.sentence)

    def on_kill(self) -> None:
        """Ask the phase to stop: it keeps its checkpoint."""
        if process := getattr(self, "process", None):
            process.terminate()


def belongs_to_phases(name: str) -> bool:
    """Whether a phase gets this variable: nothing of Airflow's own, and where its role has credentials in a file no others."""
    return not name.startswith(AIRFLOWS) and not (settings.CREDENTIALS in os.environ and name in LOGINS)


def outcome(code: int, short_of_memory: bool, sentence: str) -> tuple[int, str]:
    """What a process's end means, in a phase's own exit codes: below 0 stands the signal that killed it."""
    if code == -signal.SIGKILL and short_of_memory:
        return OUT_OF_MEMORY, "the process was killed for want of memory"
    if code in (-signal.SIGKILL, -signal.SIGTERM):
        return STOPPED, f"the process was killed ({signal.Signals(-code).name})"
    return code, sentence


def memory_kills() -> int:
    """How many processes the kernel has killed for want of memory since it started."""
    lines = Path("/proc/vmstat").read_text().splitlines()
    return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), 0)


def end_with_parent() -> None:
    """Linux sends the phase SIGTERM when its task dies, even of SIGKILL: a retry never meets the process before it."""
    ctypes.CDLL(None).prctl(DIE_WITH_PARENT, signal.SIGTERM)
