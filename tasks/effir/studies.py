"""The paper's experiments as named studies: the arms that answer a question, and which of them to compare.

A study is a frontier (`effir.arms` says how arms are written) whose variants are chosen by the experiment. Layers are counted for
models of about 30; the paper's have 32.
"""

import re
from dataclasses import dataclass

from effir import planning
from effir.compress.needs import IMPORTANCE, NEURONS
from effir.errors import BadInput, shown

UNTRAINED = "cut=reference:steps=0"
HEALED = tuple(f"8M:regression_weight={regression}:ranking_weight={ranking}" for regression in (0, 5) for ranking in (0, 1))
TRUNCATED = "last10B:regression_weight=5:ranking_weight=1"
RIVALS = ("8M-24%", "last13M=last13M-2%:neuron_score=activation_norm", "last10B", "-44%")
LEARNED = "importance_measure=learned_mask:probe_steps=64"
IN_TURN = "importance_measure=in_turn:probe_steps=2"
LOOKED = {"learned_mask": LEARNED, "in_turn": IN_TURN}
"""Measures that look at other batches than the spec's: what trains takes more; what looks again after every turn takes fewer, which costs
it about as many forward passes as leave_one_out with eight."""
MASKED = f"masked=full:target_parameters={{last10B}}:{LEARNED}:neuron_score=activation_norm"
MILD = ("4M-15%", "last8M", "last6B", "24A", "-27%")
HARSH = ("14M-37%", "last20M", "last15B", "-67%")
CHOSEN = f"{IN_TURN}:importance_of=reference:neuron_score=activation_norm"
TAUGHT = ("none", "minilm:teacher_temperature=0.05:kl_weight=1")
FADED = tuple(f"last10B:fade_steps={fade}:regression_weight={regression}" for regression in (0, 5) for fade in (0, 20))
AS_MANY = re.compile(r"\{(\w+)\}")
ROUND = 10_000
AS_LARGE = ("last12M", "last8M-18%", "last16M", "last12M-22%")
"""Pairs of one size, of a model with 30 layers."""
BETWEEN = ("8M-24%", "8M-24%:heal_steps=20", "8M-24%:heal_steps=20:steps=20")


@dataclass(frozen=True)
class Study:
    """question: what it asks; published: what the paper reports; arms; contrasts: (before, after) arms whose difference answers it.

    {last10B} in an arm stands for as many parameters as that variant leaves of the base model.
    """

    question: str
    published: str
    arms: tuple[str, ...]
    contrasts: tuple[tuple[str, str], ...]

    def to_json(self, name: str) -> dict[str, str]:
        """What a report says of it."""
        return {"name": name, "question": self.question, "published": self.published}

    def form(self, base_model: str, seeds: str) -> dict[str, str]:
        """variants, seeds and contrasts, as a frontier is asked for.

        Raises BadInput where a number of parameters is asked for and the model's sizes are not known.
        """
        variants = AS_MANY.sub(lambda found: str(_parameters(base_model, found[1])), ",".join(self.arms))
        contrasts = ", ".join(f"{before} vs {after}" for before, after in self.contrasts)
        return {"variants": variants, "seeds": seeds, "contrasts": contrasts}


def _parameters(base_model: str, variant: str) -> int:
    """What the variant leaves of the model, rounded down."""
    found = planning.plan(planning.spec_of(base_model, {"variant": variant}))
    return int(found["params_without_head"]) // ROUND * ROUND


def _each(variants: str, settings: str) -> tuple[str, ...]:
    return tuple(f"{variant}:{settings}" for variant in variants.split())


def _at_equal_size(last: str, *rivals: str) -> tuple[str, ...]:
    """What the budget chooses within as many parameters as the variant `last` leaves, and what may have as many."""
    return (f"chosen=full:target_parameters={{{last}}}:{CHOSEN}", *rivals)


def _by(variant: str, measure: str) -> str:
    """The variant by a measure of importance, which looks at as many batches as it takes."""
    return f"{variant}:{LOOKED.get(measure, f'importance_measure={measure}')}"


def _to(last: str, *others: str) -> tuple[tuple[str, str], ...]:
    return tuple((other, last) for other in others)


def _from(first: str, *others: str) -> tuple[tuple[str, str], ...]:
    return tuple((first, other) for other in others)


STUDIES: dict[str, Study] = {
    "layer-sensitivity": Study(
        "Which sub-layers does a fine-tuned retriever miss when they are dropped and nothing is trained after?",
        "E5-Mistral: 59.1 whole; 8M 57.2, 8A 54.3, 8B 23.8; 16M 24.7, 16B 12.9, 16A 2.7 (Table 1).",
        _each("8A 16A 8B 16B 8M 16M", UNTRAINED),
        (*_from(f"8A:{UNTRAINED}", f"8M:{UNTRAINED}"), *_from(f"16A:{UNTRAINED}", f"16M:{UNTRAINED}")),
    ),
    "prune-then-finetune": Study(
        "What do the variants cost once they are fine-tuned like the full-size model?",
        "Mistral-7B: 56.1 whole; 8M 55.9, 16M 55.3, 8B 54.5, 8A 53.8, 16A 53.7, 16M8A 53.7, 20M 53.7, 24M 53.2, last16B 53.0, "
        "16B 52.6 (Table 2).",
        ("8A", "16A", "8B", "16B", "last16B", "8M", "16M", "20M", "24M", "16M8A"),
        (*_from("8A", "8M"), *_from("16A", "16M"), *_from("last16B", "16B", "16M", "20M")),
    ),
    "coarse-to-fine": Study(
        "Is it better to drop some MLPs and narrow the others than to drop more of them, in the cosine's order and among the last?",
        "Mistral-7B: 16M 55.3, 16M-30% 54.3 against 20M 53.7 and 24M 53.2 (Figure 3).",
        ("16M", "16M-10%", "16M-20%", "16M-30%", "20M", "24M", *AS_LARGE),
        (*_from("20M", "16M-30%"), *_from("24M", "16M-30%"), *zip(AS_LARGE[::2], AS_LARGE[1::2], strict=True)),
    ),
    "importance-metrics": Study(
        "Which measure finds the sub-layers that can go, and is it attention or MLPs by every one of them?",
        "Cosine; l2 is mentioned, without figures. Guided beats the last MLPs by 2 to 3 points; MLPs can go, attention cannot.",
        (*(_by("8M", name) for name in IMPORTANCE), *(_by("8A", name) for name in IMPORTANCE), "last8M"),
        (
            *_from("last8M", *(_by("8M", name) for name in IMPORTANCE)),
            *_from(_by("8A", "random"), *(_by("8A", name) for name in IMPORTANCE if name != "random")),
            *((_by("8A", name), _by("8M", name)) for name in IMPORTANCE),
        ),
    ),
    "base-or-retriever": Study(
        "Do the base and the retriever made of it put their sub-layers in one order, and which order is better to cut by?",
        "Mistral-7B and E5-Mistral give nearly the same order (Figures 2a and 5).",
        tuple(f"{variant}:importance_of={whose}" for variant in ("8M", "8A") for whose in ("base", "reference")),
        tuple((f"{variant}:importance_of=base", f"{variant}:importance_of=reference") for variant in ("8M", "8A")),
    ),
    "neuron-scores": Study(
        "Which score finds the neurons that can go?",
        "Self-slimming; no other score is compared.",
        tuple(f"-30%:neuron_score={name}" for name in NEURONS),
        _from("-30%:neuron_score=random", *(f"-30%:neuron_score={name}" for name in NEURONS if name != "random")),
    ),
    "seed-spread": Study(
        "How far apart are two runs that differ in nothing but their seed?",
        "One run of each; no spread is given.",
        ("full", "8M", "8A", "last8B"),
        (("8A", "8M"), ("last8B", "8M")),
    ),
    "healing": Study(
        "What do regression onto the full-size reference and KL from its ranking bring, each on its own and together?",
        "KL from a reranker throughout; no ablation.",
        HEALED,
        _from(*HEALED),
    ),
    "progressive": Study(
        "Is it better to drop what goes by and by (fading out during training, or MLPs first, then training, then neurons) than at once?",
        "One shot throughout; elsewhere (HARNESS-LM) 28 layers to 4 in stages score 60.4 where one shot scores 50.2.",
        (*FADED, *BETWEEN),
        (*_from(*FADED), *_from(*BETWEEN)),
    ),
    "teachers": Study(
        "What does KL from a teacher's scores of a query's hard negatives bring, for the full-size model and for a cut one?",
        "KL from a reranker throughout; no ablation.",
        tuple(f"{variant}:hard_negatives=3:teacher={teacher}" for variant in ("full", "8M") for teacher in TAUGHT),
        tuple(
            (f"{variant}:hard_negatives=3:teacher={TAUGHT[0]}", f"{variant}:hard_negatives=3:teacher={TAUGHT[1]}")
            for variant in ("full", "8M")
        ),
    ),
    "isotropy": Study(
        "Do the queries of a cut model lie closer to each other (column cosine)?",
        "Mistral-7B: mean cosine between two queries 0.28 whole, 0.34 for 20M-20% (A.6).",
        ("full", "8M", "16M", "20M", "20M-20%", "8A", "last8B"),
        _from("full", "8M", "16M", "20M-20%"),
    ),
    "quantisation": Study(
        "Do the weights of a cut model bear 4 and 8 bits as those of the whole one do?",
        "NF4: Mistral-7B 56.1 becomes 56.0, 8M 55.9 becomes 55.7, 16M 55.3 stays (Table 6).",
        tuple(f"{variant}{bits}" for variant in ("full", "8M", "16M") for bits in ("", ":weights=nf4", ":weights=int8")),
        tuple((variant, f"{variant}:weights={bits}") for variant in ("full", "8M", "16M") for bits in ("nf4", "int8")),
    ),
    "rivals": Study(
        "Does a cut beat zeros in two of four weights, a learned mask, the last MLPs gone, the first layers alone taught by the whole?",
        "Mistral-7B, finetune-then-prune: Wanda 2:4 49.8 (Table 4); the cut model, prune-then-finetune, 54.3.",
        (
            "8M-24%",
            MASKED,
            *_each("full", "weights=magnitude_2_4"),
            *_each("full", "weights=wanda_2_4"),
            "last10B",
            "last13M-2%",
            TRUNCATED,
        ),
        (
            ("full:weights=magnitude_2_4", "full:weights=wanda_2_4"),
            ("full:weights=wanda_2_4", "8M-24%"),
            ("last10B", TRUNCATED),
            ("masked", "8M-24%"),
            ("last13M-2%", "masked"),
        ),
    ),
    "calibration-text": Study(
        "Does it matter whether the layers are scored on general text or on the documents that the retriever is trained on?",
        "C4 throughout; no other text is compared.",
        tuple(f"{variant}{text}" for variant in ("8M", "8A") for text in ("", ":calibration_text=training-documents")),
        tuple((variant, f"{variant}:calibration_text=training-documents") for variant in ("8M", "8A")),
    ),
    "calibration-size": Study(
        "How much calibration text does the order of the layers need?",
        "256 samples of C4, without a comparison.",
        tuple(f"8M:calibration_samples={count}" for count in (8, 32, 128)),
        _from("8M:calibration_samples=128", "8M:calibration_samples=8"),
    ),
    "pooling": Study(
        "Is a mean-pooling retriever less hurt by dropping attention than a last-token one?",
        "Yes (A.8).",
        tuple(f"{variant}:pooling={pooling}" for variant in ("8A", "8M") for pooling in ("mean", "last")),
        (("8A:pooling=last", "8A:pooling=mean"), ("8M:pooling=last", "8M:pooling=mean")),
    ),
    "bidirectional": Study(
        "What does attention in both directions bring, to the full-size model and to cut ones?",
        "Not tried; DRAMA and others train with it.",
        tuple(f"{variant}:attention={how}" for variant in ("full", "8A", "8M") for how in ("causal", "bidirectional")),
        tuple((f"{variant}:attention=causal", f"{variant}:attention=bidirectional") for variant in ("full", "8A", "8M")),
    ),
    "equal-size": Study(
        "With 1.5 times fewer operations (those of last10B in SmolLM2-135M), does what the budget chooses beat what a person would choose?",
        "Mistral-7B: 56.1 whole; 16M 55.3, 16M-30% 54.3, 16B 52.6 (Table 2 and Figure 3).",
        (*_at_equal_size("last10B", *RIVALS), f"fast=full:target_speedup=1.5:{CHOSEN}"),
        (*_to("chosen", "8M-24%", "last13M", "last10B", "-44%"), ("chosen", "fast")),
    ),
    "equal-size-mild": Study(
        "Does it with 1.25 times fewer (those of last6B)?",
        "Mistral-7B: 56.1 whole; 8M 55.9, 8B 54.5, 8A 53.8 (Table 2).",
        _at_equal_size("last6B", *MILD),
        _to("chosen", *MILD),
    ),
    "equal-size-harsh": Study(
        "Does it with half of them (those of last15B)?",
        "Mistral-7B: 56.1 whole; 20M 53.7, last16B 53.0, 16B 52.6 (Table 2).",
        _at_equal_size("last15B", *HARSH),
        _to("chosen", *HARSH),
    ),
    "attention-or-mlp": Study(
        "At equal parameters, and at equal operations, is it attention, MLPs or whole blocks that should go?",
        "MLPs at every size, for Mistral-7B (Tables 1 and 2).",
        ("8A", "15A", "5M", "8M", "last4B", "last8B", "-30%"),
        (("5M", "15A"), ("8M", "last8B"), ("8M", "-30%")),
    ),
}


def find(name: str) -> Study:
    """The study of this name. Raises BadInput, listing them, if there is none."""
    if name not in STUDIES:
        raise BadInput(f"there is no study {shown(name)}; choose one of: {', '.join(STUDIES)}")
    return STUDIES[name]
