"""What computing phases share: torch made ready for a spec, and checkpoints kept in S3."""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from effir.compress.anatomy import anatomy_of
from effir.manifest import MANIFEST, File, machine
from effir.phases.job import Job
from effir.spec import RunSpec
from effir.train import checkpoint
from effir.train.ranks import ALONE, Ranks

KEPT = 2
INDEX = "index.json"


def ready(spec: RunSpec, seed: int | None = None, ranks: Ranks = ALONE) -> str:
    """Set threads (the ranks of a machine share them), seeds and deterministic algorithms; returns the device."""
    where = machine(spec.device, spec.threads)
    torch.set_num_threads(max(1, where["threads"] // ranks.beside))
    torch.manual_seed(spec.seed if seed is None else seed)
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    return where["device"]


def dtype_of(spec: RunSpec) -> torch.dtype:
    """The torch type of spec.dtype."""
    return {"float32": torch.float32, "bfloat16": torch.bfloat16}[spec.dtype]


def backbone(spec: RunSpec, folder: Path) -> Any:
    """The base model of a run, in the spec's data type, attending as the spec says."""
    from effir.export.loading import load_backbone
    from effir.export.modeling_effir import attend_both_ways

    model = load_backbone(folder, dtype_of(spec))
    if spec.attention == "bidirectional" and anatomy_of(model).causal:
        attend_both_ways(model)
    return model


class StoredCheckpoints:
    """Checkpoints of a job below checkpoints/<phase>/<digest>/<name>/; the newest two are kept, none once the job is done.

    Which ones there are stands in one object, index.json, written after them: a listing may lag behind, reading an object does not.
    """

    def __init__(self, job: Job, name: str = "main") -> None:
        self.store = job.store
        self.job = job
        self.prefix = f"{job.store.root}/checkpoints/{job.phase}/{job.digest}/{name}"

    def save(self, step: int, parameters: Mapping[str, torch.Tensor], optimiser: torch.optim.Optimizer, state: dict[str, Any]) -> None:
        """Store the state after `step` steps; it counts once the index names it."""
        with tempfile.TemporaryDirectory(dir=self.job.scratch) as scratch:
            folder = Path(scratch)
            checkpoint.save(folder, parameters, optimiser, state)
            where = f"{self.prefix}/{step:09d}"
            files = self.store.upload(folder, where)
            self.store.put_json(f"{where}/{MANIFEST}", {name: file.model_dump() for name, file in files.items()})
        kept = sorted({*self._steps(), f"{step:09d}"})[-KEPT:]
        self.store.put_json(f"{self.prefix}/{INDEX}", kept)
        self._remove_all_but(kept)

    def load(self, parameters: Mapping[str, torch.Tensor], optimiser: torch.optim.Optimizer) -> dict[str, Any] | None:
        """Put the newest intact checkpoint back; a damaged one is passed over."""
        for step in reversed(self._steps()):
            where = f"{self.prefix}/{step}"
            files = {name: File(**file) for name, file in (self.store.get_json_or_none(f"{where}/{MANIFEST}") or {}).items()}
            if not files or not self.store.intact(where, files):
                self.job.warn(f"checkpoint {where} is damaged and is passed over")
                continue
            with tempfile.TemporaryDirectory(dir=self.job.scratch) as scratch:
                self.store.download(where, files, Path(scratch))
                self.job.say(f"{self.job.phase}: resuming after step {int(step)}")
                return checkpoint.load(Path(scratch), parameters, optimiser)
        return None

    def clear(self) -> None:
        """Remove them all."""
        self.store.delete([f"{self.prefix}/{INDEX}"])
        self._remove_all_but([])

    def _steps(self) -> list[str]:
        return self.store.get_json_or_none(f"{self.prefix}/{INDEX}") or []

    def _remove_all_but(self, kept: list[str]) -> None:
        """Also what a killed process left half-written. What a listing does not show yet goes the next time."""
        found = [
            uri for uri, _ in self.store.list(self.prefix) if uri.removeprefix(f"{self.prefix}/").partition("/")[0] not in {*kept, INDEX}
        ]
        self.store.delete(sorted(found, key=lambda uri: not uri.endswith(MANIFEST)))
