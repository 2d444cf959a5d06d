"""Checkpoints of a training loop: parameters, optimiser moments, random states, history; safetensors and JSON, no pickles."""

import json
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from effir.reading import read_json, read_tensors


def save(folder: Path, parameters: Mapping[str, torch.Tensor], optimiser: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Write everything that the rest of the training depends on.

    parameters: name → trainable tensor, in the order in which the optimiser got them; state: JSON (step, history, …).
    """
    tensors = {f"parameter.{name}": value.detach().cpu().contiguous() for name, value in parameters.items()}
    for name, value in parameters.items():
        for key, moment in optimiser.state.get(value, {}).items():
            tensors[f"moment.{key}.{name}"] = torch.as_tensor(moment).detach().cpu().contiguous()
    tensors |= {f"random.{name}": value for name, value in random_states().items()}
    kind, keys, *rest = np.random.get_state()
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "state.safetensors")
    plain = {"python_random": random.getstate(), "numpy_random": [kind, np.asarray(keys).tolist(), *rest]}
    (folder / "state.json").write_text(json.dumps(state | plain))


def load(folder: Path, parameters: Mapping[str, torch.Tensor], optimiser: torch.optim.Optimizer) -> dict[str, Any]:
    """Put back what `save` wrote and return its JSON state."""
    tensors = read_tensors(folder / "state.safetensors")
    with torch.no_grad():
        for name, value in parameters.items():
            value.copy_(tensors[f"parameter.{name}"].to(value.device))
            prefixes = {key.split(".")[1] for key in tensors if key.startswith("moment.") and key.endswith(f".{name}")}
            optimiser.state[value] = {key: _placed(key, tensors[f"moment.{key}.{name}"], value) for key in sorted(prefixes)}
    state = read_json(folder / "state.json")
    torch.set_rng_state(tensors["random.cpu"])
    if "random.cuda" in tensors and torch.cuda.is_available():
        torch.cuda.set_rng_state(tensors["random.cuda"])
    version, numbers, gauss = state.pop("python_random")
    random.setstate((version, tuple(numbers), gauss))
    kind, keys, *rest = state.pop("numpy_random")
    np.random.set_state((kind, np.array(keys, dtype=np.uint32), *rest))
    return state


def random_states() -> dict[str, torch.Tensor]:
    """torch's random states, uint8."""
    found = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        found["cuda"] = torch.cuda.get_rng_state()
    return found


def _placed(key: str, moment: torch.Tensor, parameter: torch.Tensor) -> torch.Tensor:
    return moment if key == "step" else moment.to(parameter.device)
