"""`effir phase NAME --spec URI --result URI`: look the result up, or compute and publish it.

Processes that share a phase each execute it. Rank 0 alone looks up, reports, publishes and writes the result; the others end with it.
"""

import datetime
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from effir.errors import EffirError
from effir.manifest import Manifest
from effir.phases import group, memory, stopping
from effir.phases.job import Job
from effir.phases.request import PHASES, Request, key_of, read
from effir.services import scratch
from effir.train.ranks import Ranks

__all__ = ["PHASES", "execute", "key_of"]


def execute(name: str, call_uri: str, result_uri: str) -> dict[str, Any]:
    """Run one phase; returns its result, and nothing on ranks other than 0.

    Raises EffirError (BadInput, Stopped, OutOfMemory) with one sentence; writes no result then.
    """
    with stopping.at_once():
        scratch.sweep()
        request = read(name, call_uri, result_uri)
        with group.joined(request) as ranks:
            manifest = request.found() if ranks.rank == 0 else None
            cached = ranks.any(manifest is not None)
            if not cached:
                manifest = _compute(request, ranks)
            result = request.answer(manifest, cached) if manifest else {}
            ranks.wait()
            return result


def _compute(request: Request, ranks: Ranks) -> Manifest | None:
    began, call = time.monotonic(), request.call
    if ranks.rank == 0:
        print(f"computing {request.store.artifact(request.name, request.digest)}", flush=True)
    from effir.services import registry

    told, params = call.get("arguments", {}) | call.get("caption", {}), request.key["spec"]
    record = registry.phase_run(call.get("run", {}), request.name, told, params, request.store.artifact(request.name, request.digest))
    with (
        scratch.folder(request.name) as own,
        record if ranks.rank == 0 else nullcontext() as tracker,
    ):
        job = _job(request, ranks, own, tracker)
        numbers = _run(request.module, job)
        passes = ranks.total(job.forward_passes)
        if ranks.rank:
            return None
        for label, value in numbers.items():
            if isinstance(value, int | float) and not isinstance(value, bool):
                job.metric(label, value)
        manifest = Manifest(
            phase=request.name,
            digest=request.digest,
            key=request.key,
            files={},
            parts=job.parts,
            numbers=numbers,
            output=job.output,
            seconds=round(time.monotonic() - began, 3),
            forward_passes=passes,
            created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            mlflow_run_id=tracker.run_id if tracker else None,
        )
        manifest = request.store.publish(manifest, job.out)
        for act in job.afterwards:
            act()
        return manifest


def _job(request: Request, ranks: Ranks, own: Path, tracker: Any) -> Job:
    call, result = request.call, request.result_uri
    job = Job(
        phase=request.name, digest=request.digest, spec=request.spec, inputs=call.get("inputs", {}),
        arguments=call.get("arguments", {}), run=call.get("run", {}), store=request.store, out=own / "out", scratch=own,
        downloads=group.downloads(), tracker=tracker, ranks=ranks, halvings=call.get("halvings") or 0,
        progress_uri=result.replace("/results/", "/progress/") if "/results/" in result else None,
    )  # fmt: skip
    job.out.mkdir()
    return job


def _run(module: Any, job: Job) -> dict[str, Any]:
    try:
        return module.run(job)
    except EffirError:
        raise
    except Exception as error:
        if not memory.ran_out(error):
            raise
        raise memory.sentence(job) from error
