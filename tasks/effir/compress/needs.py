"""What each measure looks at, kept apart from the measures themselves: a phase's key is known without torch.

text:    calibration text, as token batches
pairs:   labelled queries and documents, as contrastive batches
nothing: no data; weights, positions or dice
"""

from typing import Literal

Need = Literal["text", "pairs", "nothing"]
LOOKS = 4
"""How many sub-layers the measure in_turn looks at before one of them goes."""

IMPORTANCE: dict[str, Need] = {
    "cosine": "text",
    "l2": "text",
    "attended": "text",
    "taylor": "pairs",
    "leave_one_out": "pairs",
    "in_turn": "pairs",
    "learned_mask": "pairs",
    "depth": "nothing",
    "random": "nothing",
}
"""By the names of `effir.compress.measures.MEASURES`."""

NEURONS: dict[str, Need] = {
    "slimming": "pairs",
    "activation_norm": "text",
    "magnitude": "nothing",
    "taylor": "pairs",
    "random": "nothing",
}
"""By the names of `effir.compress.neurons.NEURON_SCORES`, and `slimming`, which is a training."""

WEIGHTS: dict[str, Need] = {"int8": "nothing", "nf4": "nothing", "magnitude_2_4": "nothing", "wanda_2_4": "text"}
"""By the names of `effir.compress.weights.RULES`."""
