"""Numbers of one phase on their way to its MLflow run: buffered, so that a metric a step costs nothing."""

import math
import sys
import threading
import time
from typing import Any

import psutil

from effir.errors import EffirError
from effir.services.mlflow_api import Api

FLUSH_SECONDS = 5.0
SAMPLE_SECONDS = 10.0
BATCH = 1000
KEPT = 100_000


class Tracker:
    """Metrics and artifacts of the MLflow run `run_id`.

    Metrics are sent in batches. While MLflow does not answer they are kept (the newest 100,000) and a warning is printed
    once: a long training does not die of it.
    """

    def __init__(self, api: Api, run_id: str) -> None:
        self.run_id = run_id
        self._api = api
        self._waiting: list[dict[str, Any]] = []
        self._lock = threading.Lock()
        self._sent = time.monotonic()
        self._warned = False
        self._done = threading.Event()
        self._sampler = threading.Thread(target=self._sample, name="system-metrics", daemon=True)
        self._sampler.start()

    def metric(self, name: str, value: float, step: int | None = None) -> None:
        """Log one number; `step` defaults to 0."""
        entry = {"key": name, "value": _plain(value), "timestamp": int(time.time() * 1000), "step": step or 0}
        with self._lock:
            self._waiting.append(entry)
        if time.monotonic() - self._sent > FLUSH_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Send what waits."""
        with self._lock:
            batch, self._waiting = self._waiting, []
            self._sent = time.monotonic()
        while batch:
            try:
                self._api.post("runs/log-batch", run_id=self.run_id, metrics=batch[:BATCH])
            except EffirError as error:
                self._warn(error)
                with self._lock:
                    self._waiting = (batch + self._waiting)[-KEPT:]
                return
            batch = batch[BATCH:]

    def close(self, status: str) -> None:
        """Stop sampling, send the rest and end the run as `status` (FINISHED, FAILED, KILLED)."""
        self._done.set()
        self._sampler.join(timeout=2 * SAMPLE_SECONDS)
        self.flush()
        try:
            self._api.post("runs/update", run_id=self.run_id, status=status, end_time=int(time.time() * 1000))
        except EffirError as error:
            self._warn(error)

    def _warn(self, error: EffirError) -> None:
        if not self._warned:
            print(f"warning: not recorded in MLflow: {error}", file=sys.stderr, flush=True)
        self._warned = True

    def _sample(self) -> None:
        """Log the machine's load under the names that MLflow's system metrics page shows."""
        psutil.cpu_percent()
        step = 0
        while not self._done.wait(SAMPLE_SECONDS):
            for name, value in machine_load().items():
                self.metric(f"system/{name}", value, step)
            step += 1


def machine_load() -> dict[str, float]:
    """CPU, memory and GPU use now, in percent and megabytes."""
    memory = psutil.virtual_memory()
    load = {
        "cpu_utilization_percentage": psutil.cpu_percent(),
        "system_memory_usage_megabytes": memory.used / 1e6,
        "system_memory_usage_percentage": memory.percent,
        "process_memory_usage_megabytes": psutil.Process().memory_info().rss / 1e6,
    }
    try:
        import pynvml

        pynvml.nvmlInit()
        for index in range(pynvml.nvmlDeviceGetCount()):
            device = pynvml.nvmlDeviceGetHandleByIndex(index)
            load[f"gpu_{index}_utilization_percentage"] = float(pynvml.nvmlDeviceGetUtilizationRates(device).gpu)
            load[f"gpu_{index}_memory_usage_megabytes"] = pynvml.nvmlDeviceGetMemoryInfo(device).used / 1e6
    except Exception:
        return load
    return load


def _plain(value: float) -> float | str:
    """A number as MLflow's JSON writes it: NaN and infinities are strings."""
    if math.isnan(value):
        return "NaN"
    return value if math.isfinite(value) else ("Infinity" if value > 0 else "-Infinity")
