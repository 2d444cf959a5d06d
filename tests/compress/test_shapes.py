import json
from pathlib import Path

import numpy as np
import pytest
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoConfig

from effir.compress import shapes, surgery
from effir.compress.cut import Cut
from effir.compress.shapes import Layer, Shape
from effir.errors import BadInput
from effir.export import describing

SMALL = {"vocab_size": 96, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4}
GROUPED = SMALL | {"num_key_value_heads": 2}
FAMILIES = [
    ("llama", GROUPED),
    ("llama", SMALL),
    ("llama", GROUPED | {"attention_bias": True, "mlp_bias": True}),
    ("mistral", GROUPED | {"head_dim": 16}),
    ("qwen2", GROUPED),
    ("qwen3", GROUPED | {"head_dim": 8}),
    ("gemma2", GROUPED | {"head_dim": 12}),
    ("gemma3_text", GROUPED | {"head_dim": 12}),
    ("modernbert", SMALL | {"pad_token_id": 0}),
    ("modernbert", SMALL | {"pad_token_id": 0, "norm_bias": True, "mlp_bias": True, "attention_bias": True}),
]


@pytest.mark.parametrize(("kind", "values"), FAMILIES)
def test_a_configuration_is_counted_as_its_model(kind: str, values: dict, tmp_path: Path) -> None:
    config = AutoConfig.for_model(kind, **values)
    config.save_pretrained(tmp_path)
    found = shapes.find(str(tmp_path))
    assert shapes.count(found) == surgery.parameters(surgery.skeleton(config))
    assert found.shape.causal is (kind != "modernbert")


OWNERS = {
    "mistral-7b-v0.1": ("mistralai/Mistral-7B-v0.1", "Mistral", 10000.0),
    "llama-2-7b": ("meta-llama/Llama-2-7b-hf", "Llama", 10000.0),
    "llama-3-8b": ("meta-llama/Meta-Llama-3-8B", "Llama", 500000.0),
    "qwen2.5-1.5b": ("Qwen/Qwen2.5-1.5B-Instruct", "Qwen2", 1000000.0),
    "qwen2.5-3b": ("Qwen/Qwen2.5-3B", "Qwen2", 1000000.0),
    "qwen2.5-7b": ("Qwen/Qwen2.5-7B", "Qwen2", 1000000.0),
    "smollm2-135m": ("HuggingFaceTB/SmolLM2-135M", "Llama", 100000.0),
}


@pytest.mark.parametrize("name", shapes.BUILT_IN)
def test_what_is_built_in_is_a_model_of_its_family(name: str) -> None:
    full, family, theta = OWNERS[name]
    found = shapes.find(name)
    assert shapes.find(full) == found
    layer = found.shape.layers[0]
    config = getattr(transformers, f"{family}Config")(
        vocab_size=found.vocabulary, hidden_size=found.shape.hidden, num_hidden_layers=len(found.shape.layers), head_dim=found.head_size,
        num_attention_heads=layer.query // found.head_size, num_key_value_heads=layer.key_value // found.head_size,
        intermediate_size=layer.neurons, rope_parameters={"rope_type": "default", "rope_theta": theta},
    )  # fmt: skip
    assert shapes.count(found) == surgery.parameters(surgery.skeleton(config))


CUTS = [
    Cut(4),
    Cut(4, drop_mlp=[1, 3]),
    Cut(4, drop_attention=[0, 2], drop_mlp=[2, 3], neurons={0: np.arange(16), 1: np.arange(8, 40)}),
    Cut(4, drop_attention=[0, 1, 2, 3], drop_mlp=[0]),
]


@pytest.mark.parametrize("cut", CUTS)
def test_a_cut_leaves_what_surgery_leaves(tiny, cut: Cut, tmp_path: Path) -> None:
    model = tiny()
    model.config.save_pretrained(tmp_path)
    widths = [0 if layer in cut.drop_mlp else len(cut.neurons.get(layer, range(48))) for layer in range(4)]
    planned = shapes.cut(shapes.find(str(tmp_path)), cut.drop_attention, widths)
    surgery.apply(model, cut)
    assert shapes.count(planned) == surgery.parameters(model)
    assert len(planned.shape.layers) == len(model.layers)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text(json.dumps(describing.model_config(model, cut, model.dtype)))
    assert shapes.find(str(tmp_path)) == planned


def test_what_is_not_known_is_said_with_what_is(tmp_path: Path) -> None:
    for absent in ("gpt-9", "someone/gpt-9", "/absent/mistral-7b-v0.1", "s3://bucket/base"):
        with pytest.raises(BadInput, match=r"no sizes are known of .*mistral-7b-v0.1, llama-2-7b, .*config.json"):
            shapes.find(absent)
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    with pytest.raises(BadInput, match=r"type 'gpt2'.*known are: llama, mistral"):
        shapes.find(str(tmp_path))
    for damaged in ("{", "[]", "{}"):
        (tmp_path / "config.json").write_text(damaged)
        with pytest.raises(BadInput, match="names no model_type"):
            shapes.find(str(tmp_path))


@settings(deadline=None)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=4), st.booleans())
def test_operations_are_counted_one_by_one(lengths: list[int], causal: bool) -> None:
    """Against plain loops over tokens and the tokens that each of them sees."""
    shape = Shape(6, (Layer(8, 4, 10), Layer(0, 0, 3), Layer(8, 4, 0)), causal)
    total = 0
    for length in lengths:
        for token in range(length):
            seen = token + 1 if causal else length
            for layer in shape.layers:
                total += 2 * 6 * (layer.query + 2 * layer.key_value) + 2 * layer.query * 6
                total += 2 * seen * layer.query + 2 * seen * layer.query
                total += 3 * 2 * 6 * layer.neurons
    assert shapes.flops(shape, lengths) == total


@pytest.mark.parametrize(("kind", "values"), FAMILIES)
@pytest.mark.parametrize("open_", ["nothing", "intermediate_size", "per_layer_config"])
def test_widths_are_those_of_the_whole_shape(kind: str, values: dict, open_: str, tmp_path: Path) -> None:
    AutoConfig.for_model(kind, **values).save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    told = {name: value for name, value in json.loads(path.read_text()).items() if name != open_}
    layers = {"0": {"skip": ["mlp"]}, "1": {"intermediate_size": 16}, "2": {"intermediate_size": 32}}
    path.write_text(json.dumps(told | ({"per_layer_config": layers} if open_ == "per_layer_config" else {})))
    found = shapes.neurons(tmp_path)
    assert found == [layer.neurons for layer in shapes.find(str(tmp_path)).shape.layers]
    assert open_ != "nothing" or found == [48, 48, 48]
