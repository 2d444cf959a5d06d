"""A phase as one of several processes: how it joins the others, what it shares with those beside it, how it says how it ended.

torchrun's agent (services/torchrun.py) tells each process its place by RANK, WORLD_SIZE and their like; any other launcher that sets
them will do (Kubeflow's training operator sets them too).
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

from effir.errors import BadInput
from effir.manifest import machine
from effir.phases.request import Request
from effir.services import torchrun
from effir.train.ranks import ALONE, Ranks, or_lost

PATIENCE = timedelta(hours=1)
"""How long a rank waits for another one that lives: rank 0 exports and publishes while the others wait."""


@contextmanager
def joined(request: Request) -> Iterator[Ranks]:
    """The processes that share this phase, connected: by NCCL for tensors on a GPU of its own each, by gloo for all others.

    Raises BadInput if the phase is not one that can be shared, or a process has no GPU.
    """
    count = int(os.environ.get("WORLD_SIZE", "1")) if "RANK" in os.environ else 1
    if count == 1:
        yield ALONE
        return
    if not request.shares:
        raise BadInput(f"phase {request.name} is work for one process, not {count}: finetune, slim and teacher can share theirs")
    torchrun.end_with_agent()
    import torch
    from torch import distributed

    rank, local, beside = (int(os.environ.get(name, "0")) for name in ("RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE"))
    on_gpu = machine(request.spec.device, request.spec.threads)["device"] == "cuda"
    if on_gpu:
        if local >= torch.cuda.device_count():
            raise BadInput(f"{beside} processes want a GPU each, but this machine has {torch.cuda.device_count()}: lower --processes")
        torch.cuda.set_device(local)
    kind, place = "cpu:gloo,cuda:nccl" if on_gpu else "gloo", torchrun.meeting_place()
    with or_lost():
        distributed.init_process_group(kind, place, rank=rank, world_size=count, timeout=PATIENCE)
    yield Ranks(rank, count, max(1, beside))
    distributed.destroy_process_group()


def downloads() -> Path | None:
    """A folder for inputs that the processes of this machine share."""
    folder = torchrun.folder()
    return folder / "inputs" if folder else None
