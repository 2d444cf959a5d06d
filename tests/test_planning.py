import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from transformers import AutoConfig

from effir import planning
from effir.compress import shapes, surgery, widths
from effir.compress.budget import Target
from effir.compress.cut import Cut
from effir.errors import BadInput
from effir.phases import begin
from effir.spec import resolve

PUBLISHED = {  # Lei et al., ACL 2026: billions of parameters without LM head; of Qwen2.5 as computed from its configurations
    "mistral-7b-v0.1": {"full": 7.11, "8M": 5.70, "16M": 4.29, "20M": 3.59, "24M": 2.88, "16M-30%": 3.45},
    "llama-2-7b": {"20M": 3.90, "20M-30%": 3.41, "20M-50%": 3.09, "24M": 3.36, "28M": 2.82},
    "qwen2.5-1.5b": {"full": 1.54, "8M": 1.21, "16M": 0.88, "16M-30%": 0.73, "20M": 0.72},
    "qwen2.5-3b": {"full": 3.09, "8M": 2.54, "16M": 2.00, "16M-30%": 1.60, "20M": 1.73},
    "qwen2.5-7b": {"full": 7.07, "16M": 3.81, "16M-30%": 3.08, "20M": 3.00},
}
BOUNDS = {  # operations of the linear layers alone, full over cut
    "mistral-7b-v0.1": {"8M": 1.25, "16M": 1.68, "20M": 2.02, "16M-30%": 2.11, "24M": 2.54, "last16B": 2.0},
    "qwen2.5-1.5b": {"8M": 1.34, "16M": 2.02, "16M-30%": 2.62, "20M": 2.70},
    "qwen2.5-7b": {"16M": 2.00, "16M-30%": 2.58, "20M": 2.66},
}


def planned(base: str, variant: str, **given: Any) -> dict[str, Any]:
    return planning.plan(planning.spec_of(base, {"variant": variant} | given))


def cases(table: dict[str, dict[str, float]]) -> list[tuple[str, str, float]]:
    return [(base, variant, value) for base, found in table.items() for variant, value in found.items()]


@pytest.mark.parametrize(("base", "variant", "billions"), cases(PUBLISHED))
def test_published_sizes(base: str, variant: str, billions: float) -> None:
    found = planned(base, variant)
    assert found["params_without_head"] / 1e9 == pytest.approx(billions, abs=0.005)
    assert found["variant"] == variant


@pytest.mark.parametrize(("base", "variant", "bound"), cases(BOUNDS))
def test_published_bounds(base: str, variant: str, bound: float) -> None:
    """At one token there is hardly any attention beside the linear layers."""
    found = planned(base, variant, max_query_tokens=4)
    assert found["flop_bound_query"] == pytest.approx(bound, abs=0.006)


@pytest.fixture
def small(tmp_path: Path) -> str:
    """A folder with the configuration of a 6-layer Qwen2, MLPs of 100."""
    config = AutoConfig.for_model(
        "qwen2", vocab_size=64, hidden_size=16, intermediate_size=100, num_hidden_layers=6, num_attention_heads=4, num_key_value_heads=2
    )
    config.save_pretrained(tmp_path)
    return str(tmp_path)


@pytest.mark.parametrize(("variant", "multiple"), [("2M", 1), ("1B", 1), ("3M2A-37%", 1), ("last2B-50%", 16), ("-30%", 20), ("2M-30%u", 8)])
def test_a_plan_is_what_narrowing_will_leave(small: str, variant: str, multiple: int) -> None:
    """Random scores decide which; how many parameters that leaves, the plan knew."""
    found = planned(small, variant, width_multiple=multiple)
    spec = planning.spec_of(small, {"variant": variant})
    model = surgery.skeleton(AutoConfig.from_pretrained(small))
    attention, mlp = found["dropped_attention"], found["dropped_mlp"]
    depth = Cut(6, list(range(6 - attention, 6)), list(range(6 - mlp, 6)))
    kept = {layer: np.random.default_rng(layer).random(100) for layer in range(6 - mlp)}
    cut = widths.choose(depth, kept, spec.keep_ratio, multiple) if spec.keep_ratio < 1 else depth
    if spec.width_rule == "uniform":
        assert found["widths"]["min"] == found["widths"]["max"] == 72
        cut.neurons = {layer: np.arange(72) for layer in kept}
    assert surgery.parameters(surgery.apply(model, cut)) == (found["params_without_head"], found["non_embedding"])


def test_indices_and_widths_are_given_where_they_are_settled(small: str) -> None:
    last = planned(small, "last2M1A")
    assert (last["dropped_mlp"], last["dropped_mlp_layers"], last["dropped_attention_layers"]) == (2, None, None)
    last = planned(small, "last2Mlast1A-50%u")
    assert (last["dropped_mlp_layers"], last["dropped_attention_layers"]) == ([4, 5], [5])
    assert last["widths"] == {"full": 100, "min": 50, "mean": 50.0, "max": 50, "layers": [50] * 4 + [0, 0]}
    ranked = planned(small, "last2M-50%")["widths"]
    assert ranked == {"full": 100, "min": None, "mean": 50.0, "max": None, "layers": None}
    assert planned(small, "full")["widths"]["layers"] == [100] * 6
    assert planned(small, "2M")["widths"] == {"full": 100, "min": 100, "mean": 100.0, "max": 100, "layers": None}


def test_layers_that_rounding_empties_are_dropped_and_nobody_knows_which(small: str) -> None:
    found = planned(small, "last1M-80%", width_multiple=100)
    assert (found["dropped_mlp"], found["dropped_mlp_layers"], found["widths"]["mean"]) == (5, None, 100)


@pytest.mark.parametrize("variant", ["2B1M", "1Alast2B"])
def test_what_scores_alone_decide_is_refused(small: str, variant: str) -> None:
    with pytest.raises(BadInput, match=f"what {variant} leaves depends on how its parts overlap"):
        planned(small, variant)
    assert planned(small, "last2Blast1M")["dropped_mlp_layers"] == [4, 5]


def test_a_model_that_was_cut_before(small: str) -> None:
    path = Path(small) / "config.json"
    layers = {str(layer): {"intermediate_size": 40} for layer in range(5)} | {"5": {"skip": ["mlp"]}}
    path.write_text(
        json.dumps(json.loads(path.read_text()) | {"model_type": "effir_qwen2", "intermediate_size": -1, "per_layer_config": layers})
    )
    found = planned(small, "last2M-50%u")
    assert (found["dropped_mlp"], found["widths"]["layers"]) == (1, [20, 20, 20, 20, 0, 0])
    with pytest.raises(BadInput, match=r"the layers of this model differ, .*2M.*plan a variant with `last`"):
        planned(small, "2M")


def test_a_recipe_s_lengths_and_multiple_count() -> None:
    spec = resolve("mistral-7b-paper")
    found = planning.plan(spec)
    assert found["base"] == "mistralai/Mistral-7B-v0.1"
    assert (found["query_tokens"], found["document_tokens"], found["width_multiple"]) == (512, 512, 128)
    full = shapes.BUILT_IN["mistral-7b-v0.1"]
    left = shapes.cut(full, [], [10032] * 16 + [0] * 16)
    assert found["params_without_head"] == shapes.count(left)[0]
    assert found["flop_bound_document"] == pytest.approx(shapes.flops(full.shape, [512]) / shapes.flops(left.shape, [512]))


def test_attention_in_both_directions_looks_at_twice_the_pairs() -> None:
    one, both = (
        planning.plan(planning.spec_of("smollm2-135m", {"variant": "15A", "attention": how})) for how in ("causal", "bidirectional")
    )
    assert one["params_without_head"] == both["params_without_head"]
    assert both["flop_bound_document"] > one["flop_bound_document"], "what attention costs is more, and so is what its absence saves"
    shape = shapes.find("smollm2-135m", "bidirectional").shape
    assert shapes.flops(shape, [64]) - shapes.flops(replace(shape, causal=True), [64]) == 30 * 4 * 576 * (64 * 64 - 64 * 65 // 2)


def test_a_budget_by_the_prior_meets_its_target_and_says_that_it_is_one() -> None:
    spec = planning.spec_of("smollm2-135m", {})
    found = planning.within(spec, Target(2.0), 128)
    assert found["flop_bound_document"] == found["predicted_speedup"] >= 2
    assert found["prior"].startswith("prior, nothing was measured")
    left = found["widths"]["layers"]
    assert left == sorted(left, reverse=True), "later layers are worth less"
    smaller = planning.within(spec, Target(parameters=90_000_000), 256)
    assert smaller["params_without_head"] <= 90_000_000
    assert planning.within(spec, Target(2.0, 75_000_000), 256)["params_without_head"] <= 75_000_000
    with pytest.raises(BadInput, match="a speed-up of 1 asks for nothing"):
        planning.within(spec, Target(1.0), 64)
    with pytest.raises(BadInput, match=r"a speed-up of 9999 is out of reach: .* the nearest is \d+"):
        planning.within(spec, Target(9999.0), 64)


def test_a_target_that_no_cut_meets_is_refused_where_sizes_are_known(tmp_path: Path) -> None:
    nearest = r"^9 parameters are out of reach: .* the nearest is 28,[0-9,]{7}$"
    with pytest.raises(BadInput, match=nearest):
        planning.check_target(planning.spec_of("smollm2-135m", {"target_parameters": 9, "width_multiple": 64}))
    with pytest.raises(BadInput, match=nearest):
        begin.run(SimpleNamespace(spec=planning.spec_of("HuggingFaceTB/SmolLM2-135M", {"target_parameters": 9, "width_multiple": 64})))
    for base, given in (
        ("smollm2-135m", {"target_parameters": 90_000_000, "width_multiple": 64}),
        ("smollm2-135m", {"target_speedup": 999}),
        (str(tmp_path / "nowhere"), {"target_parameters": 9, "width_multiple": 64}),
        ("models:/retriever@champion", {"target_parameters": 9, "width_multiple": 64}),
    ):
        planning.check_target(planning.spec_of(base, given))


def lines(found: dict[str, Any]) -> list[str]:
    console = Console(width=110)
    with console.capture() as captured:
        console.print(planning.table(found))
    return [" ".join(line.split()) for line in captured.get().splitlines()]


def test_a_person_reads_the_same() -> None:
    shown = lines(planned("mistral-7b-v0.1", "16Mlast2A-30%"))
    assert "mistral-7b-v0.1 16Mlast2A-30%" in shown
    assert "parameters, no LM head 7,110,660,096 3,362,553,856 -52.7%" in shown
    assert "attentions dropped 2 of 32 the least important" in shown
    assert "mean width of MLPs left 14,336 10,035.2 each as it ranks" in shown
    assert "FLOP bound, query 1.00× 2.16× 32 tokens" in shown
    found = planning.within(planning.spec_of("smollm2-135m", {}), Target(1.5, 120_000_000), 256)
    assert lines(found)[0] == "smollm2-135m for speed-up 1.5 and 120,000,000 parameters"
    assert any(line.startswith("prior, nothing was measured") for line in lines(found))
    assert planning.runs(found["dropped_mlp_layers"]) in " ".join(lines(found))


def test_runs_of_numbers() -> None:
    assert planning.runs([1, 3, 4, 5, 9]) == "1, 3-5, 9"
    assert planning.runs([]) == ""
