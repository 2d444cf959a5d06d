"""The layer loops of engines that read NemotronNAS' schema, as their sources describe them, over a folder's own files.

Written from what those sources say, without effir and without transformers: what these loops compute, the engines compute.
"""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

ATTENTION_KEYS = {"no_op", "replace_with_linear", "n_heads_in_group"}
FFN_KEYS = {"no_op", "replace_with_linear", "ffn_mult"}


def schema(config: dict[str, Any]) -> list[str]:
    """What is wrong with a config.json by the rules of vLLM, SGLang, TensorRT-LLM and mlx-lm; empty: nothing."""
    blocks, heads = config["block_configs"], config["num_attention_heads"]
    wrong = [] if len(blocks) == config["num_hidden_layers"] else ["as many blocks as layers"]
    wrong += [] if config["architectures"] == ["DeciLMForCausalLM"] and config["model_type"] == "nemotron-nas" else ["names"]
    for index, block in enumerate(blocks):
        attention, ffn = block["attention"], block["ffn"]
        rules = {
            "mlx-lm takes no other keys": set(attention) <= ATTENTION_KEYS and set(ffn) <= FFN_KEYS and set(block) == {"attention", "ffn"},
            "TensorRT-LLM reads these": {"no_op", "replace_with_linear", "n_heads_in_group"} <= set(attention) and "no_op" in ffn,
            "a group divides the heads": attention["no_op"] or heads % attention["n_heads_in_group"] == 0,
            "no attention, no group": not attention["no_op"] or attention["n_heads_in_group"] is None,
            "a multiplier where there is an MLP": ffn["no_op"] or isinstance(ffn["ffn_mult"], float),
            "nothing linear": not attention["replace_with_linear"] and not ffn["replace_with_linear"],
            "vLLM and SGLang begin with an attention": index > 0 or not attention["no_op"],
        }
        wrong += [f"layer {index}: {rule}" for rule, holds in rules.items() if not holds]
    return wrong


def width(ffn_mult: float, hidden: int, digits: int | None = None) -> int:
    """Rounded up to a multiple of 256; mlx-lm rounds the multiplier to six digits first."""
    wide = int(2 * (ffn_mult if digits is None else round(ffn_mult, digits)) * hidden / 3)
    return wide if wide % 256 == 0 else wide + 256 - wide % 256


class Engine:
    """One text at a time. reader: "fused" (vLLM, SGLang), "plain" (mlx-lm), "without biases" (TensorRT-LLM) or "llama.cpp"."""

    def __init__(self, folder: Path, reader: str) -> None:
        self.reader = reader
        self.config = json.loads((folder / "config.json").read_text())
        self.weights: dict[str, Tensor] = {}
        for path in sorted(folder.glob("model*.safetensors")):
            self.weights |= load_file(path)
        self.used: set[str] = set()

    def vector(self, ids: list[int], pooling: str) -> np.ndarray:
        """The unit vector (d,) of a text's token ids."""
        loop = {"fused": self.fused, "llama.cpp": self.llamacpp}.get(self.reader, self.plain)
        states = loop(self.weight("model.embed_tokens.weight")[torch.tensor(ids)])
        pooled = states[-1] if pooling == "last" else states.mean(0)
        return (pooled / pooled.norm()).numpy()

    def unread(self) -> set[str]:
        """Weights that no layer asked for: an engine would complain of them."""
        return set(self.weights) - self.used

    def weight(self, name: str) -> Tensor:
        self.used.add(name)
        return self.weights[name].float()

    def fused(self, states: Tensor) -> Tensor:
        """The residual stream is kept beside what the sub-layer before gave, and a norm adds the two."""
        residual = None
        for index, block in enumerate(self.config["block_configs"]):
            if not block["attention"]["no_op"]:
                residual = states if residual is None else states + residual
                states = self.attention(index, self.norm(index, "input_layernorm", residual))
            if not block["ffn"]["no_op"]:
                assert residual is not None, "vLLM's and SGLang's norm gives one tensor where two are unpacked"
                residual = states + residual
                states = self.mlp(index, self.norm(index, "post_attention_layernorm", residual))
        assert residual is not None
        return self.last_norm(states + residual)

    def plain(self, states: Tensor) -> Tensor:
        for index, block in enumerate(self.config["block_configs"]):
            if not block["attention"]["no_op"]:
                states = states + self.attention(index, self.norm(index, "input_layernorm", states))
            if not block["ffn"]["no_op"]:
                states = states + self.mlp(index, self.norm(index, "post_attention_layernorm", states))
        return self.last_norm(states)

    def llamacpp(self, states: Tensor) -> Tensor:
        """A layer of width nought ends before its attention is added: seen in its source, and in what it computes (docs/engines.md)."""
        for index, block in enumerate(self.config["block_configs"]):
            group, multiplier = block["attention"]["n_heads_in_group"], block["ffn"]["ffn_mult"]
            attended = states
            if group is not None:
                attended = self.attention(index, self.norm(index, "input_layernorm", states))
            if multiplier is None:
                continue
            added = attended + states if group is not None else attended
            states = added + self.mlp(index, self.norm(index, "post_attention_layernorm", added))
        return self.last_norm(states)

    def norm(self, index: int, name: str, states: Tensor) -> Tensor:
        return self._rms(states, self.weight(f"model.layers.{index}.{name}.weight"))

    def last_norm(self, states: Tensor) -> Tensor:
        return self._rms(states, self.weight("model.norm.weight"))

    def _rms(self, states: Tensor, weight: Tensor) -> Tensor:
        return states * torch.rsqrt(states.square().mean(-1, keepdim=True) + self.config["rms_norm_eps"]) * weight

    def linear(self, name: str, states: Tensor, bias: bool = False) -> Tensor:
        found = states @ self.weight(f"{name}.weight").T
        return found + self.weight(f"{name}.bias") if bias else found

    def mlp(self, index: int, states: Tensor) -> Tensor:
        name, hidden = f"model.layers.{index}.mlp", self.config["hidden_size"]
        multiplier = self.config["block_configs"][index]["ffn"]["ffn_mult"]
        assert self.weight(f"{name}.gate_proj.weight").shape == (width(multiplier, hidden), hidden)
        gate = self.linear(f"{name}.gate_proj", states)
        return self.linear(f"{name}.down_proj", gate * torch.sigmoid(gate) * self.linear(f"{name}.up_proj", states))

    def attention(self, index: int, states: Tensor) -> Tensor:
        """Causal, grouped queries, rotary embeddings on halves; a bias means one for the output, too."""
        config, name = self.config, f"model.layers.{index}.self_attn"
        heads, size, bias = config["num_attention_heads"], config["head_dim"], config["attention_bias"] and self.reader != "without biases"
        group = config["block_configs"][index]["attention"]["n_heads_in_group"]
        shapes = {"q": heads, "k": heads // group, "v": heads // group}
        made = {key: self.linear(f"{name}.{key}_proj", states, bias).view(len(states), count, size) for key, count in shapes.items()}
        query, key = self._turn(made["q"]), self._turn(made["k"]).repeat_interleave(group, 1)
        scores = torch.einsum("ihd,jhd->hij", query, key) / math.sqrt(size)
        scores = scores.masked_fill(torch.ones(len(states), len(states)).triu(1).bool(), float("-inf"))
        mixed = torch.einsum("hij,jhd->ihd", scores.softmax(-1), made["v"].repeat_interleave(group, 1))
        return self.linear(f"{name}.o_proj", mixed.reshape(len(states), -1), bias)

    def _turn(self, states: Tensor) -> Tensor:
        half = states.shape[-1] // 2
        angle = torch.arange(len(states))[:, None] / self.config["rope_theta"] ** (torch.arange(half) / half)
        cos, sin = angle.cos()[:, None], angle.sin()[:, None]
        one, other = states[..., :half], states[..., half:]
        return torch.cat([one * cos - other * sin, other * cos + one * sin], -1)


def farthest(folder: Path, reader: str) -> float:
    """Largest absolute difference of an engine's vectors from the folder's golden embeddings.

    Raises AssertionError naming weights that were not read.
    """
    engine, golden = Engine(folder, reader), load_file(folder / "golden.safetensors")
    tokens = json.loads((folder / "golden.json").read_text())["tokens"]
    pooling = json.loads((folder / "effir.json").read_text())["settings"]["pooling"]
    gaps = [
        np.abs(engine.vector(ids, pooling) - golden[kind][row].numpy()).max() for kind in golden for row, ids in enumerate(tokens[kind])
    ]
    assert not engine.unread(), engine.unread()
    return float(max(gaps))
