"""What is asked: the RunSpec. One flat table of fields; the trigger form, `--set` and the digests use the same names.

A field left out of a profile keeps the default below, which is the paper's value where the paper states
one (Lei et al., ACL 2026, sections 4.2 and A.2) and otherwise the default argued for in docs/method.md.
"""

import tomllib
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from effir.compress import grammar
from effir.errors import BadInput, shown
from effir.names import NAME, REVISION, check_beir, check_name

PROFILES = Path(__file__).parent / "profiles"
TARGETS = ("target_speedup", "target_parameters")
TRAINING_DOCUMENTS = "training-documents"
"""What calibration_text says for the documents of the training data."""
WHOLE = {"variant": "full", "keep_ratio": 1.0}
SHA256 = r"^[0-9a-f]{64}$"


def field(default: Any, section: str, description: str, **bounds: Any) -> Any:
    """A RunSpec field that names the section of the trigger form in which it stands."""
    return Field(default, description=description, json_schema_extra={"section": section}, **bounds)


class RunSpec(BaseModel):
    """Everything that decides the outcome of a run. Flat, typed, bounded; unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=False)

    # Model
    name: str = field("effir-demo", "Model", "Registered model that a champion is crowned in.", pattern=NAME)
    base_model: str = field(
        "smollm2-135m-instruct",
        "Model",
        "Hugging Face id, local folder, s3:// folder, models:/ URI, .gguf file, or the packaged smollm2-135m-instruct.",
        min_length=1,
        examples=[
            "smollm2-135m-instruct",
            "HuggingFaceTB/SmolLM2-135M",
            "mistralai/Mistral-7B-v0.1",
            "s3://models/my-model",
            "models:/my-model@champion",
        ],
    )
    base_revision: str | None = field(
        None,
        "Model",
        "Revision of a Hugging Face base model; with its own code, a whole commit.",
        pattern=REVISION,
        examples=["main", "v1.0"],
    )
    trust_remote_code: bool = field(
        False, "Model", "Run the base model's own code. Off unless you have read it; base_code then says what you read."
    )
    base_code: str | None = field(
        None, "Model", "Digest of the code that trust_remote_code allows; a run without it names it.", pattern=SHA256
    )
    pooling: Literal["last", "mean"] = field("last", "Model", "How token states become one vector; `last` is the paper's.")
    query_template: str = field(
        "<instruct>Given a query, retrieve relevant passages that answer the query.\\n<query>{text}",
        "Model",
        "Text put around a query; {text} stands for the query, \\n for a line break.",
    )
    document_template: str = field("{text}", "Model", "Text put around a document; {text} is title and text joined by a space.")
    attention: Literal["causal", "bidirectional"] = field(
        "causal", "Model", "Whether a token attends to those before it, as the base was trained (and in the paper), or to all."
    )
    max_query_tokens: int = field(512, "Model", "Queries are cut at this many tokens.", ge=4, le=32768)
    max_document_tokens: int = field(512, "Model", "Documents are cut at this many tokens.", ge=4, le=32768)

    # Data
    training_data: str = field(
        "beir:msmarco",
        "Data",
        "stdlib-code, beir:NAME, a folder or s3:// prefix in BEIR layout, or a JSON-lines file; several with commas.",
        min_length=1,
        examples=["stdlib-code", "beir:msmarco", "s3://data/my-pairs", "/data/pairs.jsonl"],
    )
    training_examples: int | None = field(None, "Data", "Use at most this many training queries (seeded choice).", ge=2)
    hard_negatives: int = field(7, "Data", "Hard negatives per training query, mined by BM25 where the data has none.", ge=0, le=64)
    collections: str = field(
        "beir:scifact,beir:nfcorpus",
        "Data",
        "Test collections, comma separated: stdlib-code, semanlink, beir:NAME, folders, s3://.",
        min_length=1,
        examples=["stdlib-code,semanlink", "beir:scifact,beir:nfcorpus", "s3://data/my-tests"],
    )
    in_domain: str = field(
        "",
        "Data",
        "Those of the collections (by name) on which the reference must beat the untrained base. Empty: all.",
        examples=["stdlib-code", "scifact"],
    )
    test_queries: int | None = field(None, "Data", "Use at most this many test queries per collection (seeded choice).", ge=10)
    test_documents: int | None = field(
        None, "Data", "Shrink each test corpus to this many documents; judged ones always stay. Marked as pooled in results.", ge=10
    )
    calibration_text: str = field(
        "pydoc-topics",
        "Data",
        "Text for scoring layers: pydoc-topics, training-documents, or a .txt or .jsonl file (field text).",
        min_length=1,
        examples=["pydoc-topics", "training-documents", "/data/text.txt"],
    )

    # Importance
    importance_measure: Literal["cosine", "l2", "attended", "taylor", "leave_one_out", "in_turn", "learned_mask", "depth", "random"] = (
        field("cosine", "Importance", "What ranks the sub-layers; cosine is the paper's (docs/method.md, Importance measures).")
    )
    importance_of: Literal["base", "reference"] = field(
        "base",
        "Importance",
        "Whose sub-layers are ranked: those of the base, as in the paper, or those of the fine-tuned reference. The base is what is cut.",
    )
    calibration_samples: int = field(256, "Importance", "Packed calibration sequences (the paper: 256 of C4).", ge=1, le=100000)
    calibration_tokens: int = field(2048, "Importance", "Tokens per calibration sequence.", ge=8, le=32768)
    probe_steps: int = field(
        8,
        "Importance",
        "Contrastive batches (of slim_batch queries) for measures and neuron scores that look at the loss.",
        ge=1,
        le=100000,
    )

    # Depth and width
    variant: str = field(
        "16M",
        "Depth",
        "Sub-layers to drop, in the paper's names: full, 8A, 16M, 16B, last16B, last8M, 16M8A. "
        "16M-30% also sets keep_ratio to 0.7, 16M-30%u with the uniform width_rule.",
        pattern=grammar.PATTERN,
        examples=["full", "8A", "16M", "last4B", "16M8A", "16M-30%", "-30%"],
    )
    neuron_score: Literal["slimming", "activation_norm", "magnitude", "taylor", "random"] = field(
        "slimming", "Width", "What ranks the neurons of the remaining MLPs; slimming is the paper's (docs/method.md, Neuron scores)."
    )
    slim_steps: int = field(
        500, "Width", "Self-slimming steps (z alone is trained). 0: no width cut, or one by another neuron_score.", ge=0, le=100000
    )
    slim_batch: int = field(64, "Width", "Queries per slimming step, and per contrastive batch of probe_steps.", ge=2, le=65536)
    slim_seeds: int = field(
        2, "Width", "Slimming runs; the first decides, the others tell how far its ranking can be trusted.", ge=1, le=16
    )
    slim_learning_rate: float = field(0.01, "Width", "Learning rate of z; the paper leaves it open.", gt=0, le=10)
    slim_lambda: float = field(1e-8, "Width", "Weight of the sparsity penalty (Eq. 8).", ge=0, le=1e6)
    slim_beta: float = field(5.0, "Width", "Steepness of the penalty's sigmoid (A.1).", gt=0, le=1000)
    heal_steps: int = field(
        0,
        "Width",
        "Steps of training between depth and width: what is left learns to do without what was dropped, before neurons are scored.",
        ge=0,
        le=10_000_000,
    )
    keep_ratio: float = field(0.7, "Width", "Share of the remaining MLP neurons to keep.", gt=0, le=1)
    width_rule: Literal["global", "uniform"] = field(
        "global", "Width", "global: the neurons of all layers are ranked together; uniform: every layer keeps the same share."
    )
    width_multiple: int = field(64, "Width", "Round each layer's width to a multiple of this, keeping the total.", ge=1, le=4096)

    # Budget
    target_speedup: float | None = field(
        None,
        "Budget",
        "Instead of a variant: choose the cut that keeps the most importance at this document speed-up, by measured costs.",
        gt=1,
        le=1000,
    )
    target_parameters: int | None = field(
        None, "Budget", "Instead of a variant: choose the cut that keeps the most importance in so many parameters.", ge=1
    )

    # Fine-tuning
    steps: int = field(3900, "Fine-tune", "Optimiser steps of the candidate.", ge=0, le=10_000_000)
    reference_steps: int = field(
        3900, "Fine-tune", "Optimiser steps of the full-size reference; at least those of the candidate.", ge=0, le=10_000_000
    )
    fade_steps: int = field(
        0,
        "Fine-tune",
        "Fade the dropped sub-layers out over the first so many steps, instead of dropping them at once (docs/method.md).",
        ge=0,
        le=10_000_000,
    )
    batch: int = field(128, "Fine-tune", "Queries per step; in-batch negatives come from all of them.", ge=2, le=65536)
    max_training_tokens: int = field(
        512, "Fine-tune", "Documents are cut at this many tokens in training, slimming and probing.", ge=4, le=32768
    )
    micro_batch: int = field(
        0,
        "Fine-tune",
        "Queries held in memory at once; gradient caching makes the result independent of it. 0: the whole batch.",
        ge=0,
        le=65536,
    )
    learning_rate: float = field(1e-4, "Fine-tune", "Peak learning rate of the adapters.", gt=0, le=1)
    warmup_steps: int = field(100, "Fine-tune", "Linear warm-up steps; linear decay follows.", ge=0, le=1_000_000)
    temperature: float = field(0.02, "Fine-tune", "Temperature of InfoNCE (Eq. 2).", gt=0, le=10)
    lora_rank: int = field(32, "Fine-tune", "Rank of the adapters on all seven projections.", ge=1, le=4096)
    lora_alpha: float = field(64.0, "Fine-tune", "Scale of the adapters.", gt=0, le=65536)
    lora_dropout: float = field(0.1, "Fine-tune", "Dropout before each adapter.", ge=0, lt=1)
    weight_decay: float = field(0.0, "Fine-tune", "AdamW's weight decay.", ge=0, le=1)
    checkpoint_every: int = field(50, "Fine-tune", "Steps between checkpoints.", ge=1, le=1_000_000)
    teacher: str = field(
        "BAAI/bge-reranker-v2-m3",
        "Fine-tune",
        "Scores for distillation: a cross-encoder by name, data (in the training rows), minilm, or none.",
        min_length=1,
        examples=["none", "minilm", "data", "BAAI/bge-reranker-v2-m3"],
    )
    teacher_temperature: float = field(1.0, "Fine-tune", "1 for reranker logits, about 0.05 for cosines.", gt=0, le=100)
    kl_weight: float = field(1.0, "Fine-tune", "Weight of KL(teacher || student) over each query's own group.", ge=0, le=1000)
    regression_weight: float = field(
        0.0, "Fine-tune", "Weight of the regression of the candidate onto the reference's embeddings.", ge=0, le=1000
    )
    ranking_weight: float = field(
        0.0, "Fine-tune", "Weight of KL from the reference's ranking of the batch's documents to the candidate's.", ge=0, le=1000
    )

    # Evaluation
    shard_documents: int = field(50_000, "Evaluate", "Documents per encode task.", ge=10, le=10_000_000)
    batch_tokens: int = field(16_384, "Evaluate", "Padded tokens per encoding batch, at most; a processor takes 512.", ge=16, le=10_000_000)
    speed_seconds: float = field(60.0, "Evaluate", "Time for the interleaved speed measurement.", gt=0, le=3600)
    speed_documents: int = field(1000, "Evaluate", "Real documents (and as many queries, where there are) in it.", ge=8, le=100000)

    # Gate
    margin: float = field(0.02, "Gate", "Largest tolerated loss of nDCG@10 per collection (0 to 1).", gt=0, lt=1)
    margins: str = field(
        "",
        "Gate",
        "Exceptions to it, such as semanlink=0.04.",
        pattern=r"^$|^[^=,\s]+=0?\.\d+(,\s*[^=,\s]+=0?\.\d+)*$",
        examples=["semanlink=0.04", "scifact=0.03, nfcorpus=0.05"],
    )
    margin_mean: float = field(0.01, "Gate", "Largest tolerated loss of the mean over the collections.", gt=0, lt=1)
    confidence: float = field(0.95, "Gate", "One-sided confidence of every bound.", gt=0.5, lt=1)
    resamples: int = field(10_000, "Gate", "Bootstrap resamples.", ge=200, le=1_000_000)
    min_query_speedup: float = field(1.0, "Gate", "Smallest accepted query speed-up over the reference.", ge=0, le=1000)
    min_document_speedup: float = field(1.0, "Gate", "Smallest accepted document speed-up over the reference.", ge=0, le=1000)
    max_parameters: int | None = field(None, "Gate", "Largest accepted number of parameters.", ge=1)
    approval: bool = field(False, "Gate", "Ask a person in Airflow before a candidate that passed becomes the champion.")
    approval_hours: float = field(24, "Gate", "Hours to wait for an answer; then the candidate stays a challenger.", gt=0, le=8760)

    # Compute
    device: Literal["auto", "cpu", "cuda"] = field("auto", "Compute", "Where phases compute.")
    dtype: Literal["float32", "bfloat16"] = field("bfloat16", "Compute", "Data type of the frozen weights and of encoding.")
    threads: int = field(0, "Compute", "CPU threads of a phase; part of bit-equality. 0: all cores.", ge=0, le=1024)
    seed: int = field(0, "Compute", "Seed of every random choice.", ge=0, le=2**31 - 1)

    @model_validator(mode="before")
    @classmethod
    def _expand(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        return (WHOLE if any(values.get(name) for name in TARGETS) else {}) | grammar.expand(values)

    @field_validator("query_template", "document_template")
    @classmethod
    def _has_place(cls, value: str) -> str:
        if value.count("{text}") != 1 or not value.endswith("{text}"):
            raise ValueError("must contain {text} exactly once and end with it: Sentence-Transformers knows prefixes only")
        return value

    @model_validator(mode="after")
    def _agree(self) -> "RunSpec":
        if self.reference_steps < self.steps:
            raise ValueError(
                f"reference_steps ({self.reference_steps}) is less than steps ({self.steps}): "
                "a reference trained less than the candidate proves nothing"
            )
        if self.fade_steps > self.steps:
            raise ValueError(f"fade_steps ({self.fade_steps}) is more than steps ({self.steps}): what fades must be gone in the end")
        if (self.keep_ratio < 1 or self.has_target()) and self.slim_steps == 0 and self.neuron_score == "slimming":
            raise ValueError(
                "keep_ratio below 1, or a target, needs slim_steps above 0, since z is what ranks the neurons, or another neuron_score"
            )
        if self.heal_steps and (self.keep_ratio == 1 or self.variant == "full"):
            raise ValueError(
                "heal_steps trains between dropping sub-layers and narrowing MLPs: give a variant that drops some and a keep_ratio below 1"
            )
        if self.has_target() and (self.variant != "full" or self.keep_ratio < 1):
            raise ValueError("a target chooses what is cut: give no variant and no keep_ratio beside it")
        grammar.parse(self.variant)
        names = self.collection_names()
        if not names:
            raise ValueError("collections names none: give at least one")
        self._check_sources()
        if len(set(names)) != len(names):
            raise ValueError("collections has the same name twice")
        given = [part.split("=")[0].strip() for part in self.margins.split(",") if part.strip()]
        if len(set(given)) != len(given) or not all(0 < margin < 1 for margin in self.margin_by_name().values()):
            raise ValueError("margins must be above 0 and below 1, one for each name")
        for what, given in (("in_domain", self.in_domain_names()), ("margins", list(self.margin_by_name()))):
            for one in given:
                if one not in names:
                    raise ValueError(f"{what} names {one}, which is not among the collections ({', '.join(names)})")
        return self

    def _check_sources(self) -> None:
        """Names become parts of paths and keys: a BEIR set's and every collection's."""
        for field, sources in (("training_data", self.training_sources()), ("collections", self.collection_sources())):
            for source in sources:
                if source.startswith("beir:"):
                    check_beir(source, field)
        for source in self.collection_sources():
            check_name(collection_name(source), f"collections: the name of {shown(source)}, its last part,")

    def cut_name(self) -> str:
        """What is cut, in a word or two for people.

        >>> RunSpec(variant="16M", keep_ratio=0.7).cut_name(), RunSpec(target_speedup=1.5, variant="full", keep_ratio=1).cut_name()
        ('16M-30%', 'speed-up 1.5')
        """
        if self.target_speedup is not None:
            return f"speed-up {self.target_speedup:g}"
        if self.target_parameters is not None:
            return f"{self.target_parameters:,} parameters"
        narrower = f"-{100 * (1 - self.keep_ratio):g}%" if self.keep_ratio < 1 else ""
        return f"{self.variant}{narrower}"

    def has_target(self) -> bool:
        """Whether a budget chooses the cut, instead of variant and keep_ratio."""
        return self.target_speedup is not None or self.target_parameters is not None

    def collection_sources(self) -> list[str]:
        """The test collections as written, in order."""
        return [part.strip() for part in self.collections.split(",") if part.strip()]

    def training_sources(self) -> list[str]:
        """The training data as written, in order."""
        return [part.strip() for part in self.training_data.split(",") if part.strip()]

    def collection_names(self) -> list[str]:
        """Their short names: beir:scifact, /data/scifact/ and s3://b/scifact are all `scifact`."""
        return [collection_name(source) for source in self.collection_sources()]

    def in_domain_names(self) -> list[str]:
        """Collections on which the reference must beat the untrained base."""
        return [part.strip() for part in self.in_domain.split(",") if part.strip()] or self.collection_names()

    def margin_by_name(self) -> dict[str, float]:
        """The exceptions to `margin`, by collection name."""
        pairs = (part.split("=") for part in self.margins.split(",") if part.strip())
        return {name.strip(): float(value) for name, value in pairs}


def collection_name(source: str) -> str:
    """Short name of a collection.

    >>> collection_name("beir:scifact"), collection_name("/data/nfcorpus/"), collection_name("semanlink")
    ('scifact', 'nfcorpus', 'semanlink')
    """
    return source.rstrip("/").rsplit("/", 1)[-1].removeprefix("beir:")


def profile_names() -> list[str]:
    """Profiles that ship with effir."""
    return sorted(path.stem for path in PROFILES.glob("*.toml"))


def load_profile(name: str) -> dict[str, Any]:
    """The fields that a profile sets.

    Raises BadInput if there is no such profile.
    """
    if name not in profile_names():
        raise BadInput(f"there is no profile {shown(name)}; choose one of: {', '.join(profile_names())}")
    return tomllib.loads((PROFILES / f"{name}.toml").read_text())


def resolve(profile: str, overrides: dict[str, Any] | None = None) -> RunSpec:
    """Defaults, then the profile, then the overrides; in each of them a variant may set the width as well (16M-30%).

    A target in the overrides takes the place of the profile's variant, and a variant that of its target.

    Raises BadInput with one sentence per wrong field.
    """
    given = {key: value for key, value in (overrides or {}).items() if value is not None}
    values, given = grammar.expand(load_profile(profile)), grammar.expand(given)
    if any(name in given for name in TARGETS):
        values |= WHOLE
    elif "variant" in given:
        values = {key: value for key, value in values.items() if key not in TARGETS}
    return parse(values | given)


def parse(values: dict[str, Any]) -> RunSpec:
    """A RunSpec from a plain table. Raises BadInput with one sentence that names every wrong field."""
    try:
        return RunSpec(**values)
    except ValidationError as error:
        raise BadInput("; ".join(_sentence(detail) for detail in error.errors())) from None


def _sentence(detail: Any) -> str:
    where = ".".join(str(part) for part in detail["loc"])
    if detail["type"] == "extra_forbidden":
        return f"{shown(where)[1:-1]} is not a field of the spec; `effir spec --schema` lists them"
    message = detail["msg"].removeprefix("Value error, ")
    if not where:
        return message
    if where == "variant":
        return f"variant {shown(detail['input'])} does not parse: write {grammar.GRAMMAR}"
    return f"{where}: {message} (got {shown(detail['input'])})"
