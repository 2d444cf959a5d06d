"""`effir phase NAME … --processes N [--nodes M --rendezvous HOST:PORT]`: a phase whose work several processes share."""

import re

from effir.errors import BadInput
from effir.phases import stopping
from effir.phases.request import read
from effir.services import scratch, torchrun

ADDRESS = r"(\[[0-9A-Fa-f:]+\]|[\w.-]+):\d{1,5}"


def launch(name: str, call_uri: str, result_uri: str, processes: int, nodes: int = 1, rendezvous: str = "") -> None:
    """Find that the phase was done before, or start torchrun's agent for this machine's part of the processes.

    Raises EffirError as the phase does that all of them execute; BadInput if its work cannot be shared.
    """
    with stopping.at_once():
        scratch.sweep()
        request = read(name, call_uri, result_uri)
        if not request.shares:
            raise BadInput(
                f"phase {name} is work for one process: leave out --processes and --nodes (finetune, slim and teacher share theirs)"
            )
        if nodes > 1 and not re.fullmatch(ADDRESS, rendezvous):
            raise BadInput(
                f"{nodes} nodes need a place to meet: give --rendezvous HOST:PORT with the host of one of them (got {rendezvous!r})"
            )
        if (manifest := request.found()) is not None:
            request.answer(manifest, cached=True)
            return
        command = ["-m", "effir.cli", "phase", name, "--spec", call_uri, "--result", result_uri]
        with scratch.folder(f"{name}-ranks") as shared:
            world = torchrun.World(processes, nodes, rendezvous, f"{name}-{request.digest[:16]}")
            torchrun.run(name, command, world, shared)
