"""The model card: what a model was cut from, how it was trained and how to load it; once it was judged, what it achieved as well."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from effir.compress.cut import Cut
    from effir.retrieve.settings import Settings

POOLINGS = {"last": "the end-of-sequence token's state", "mean": "the mean of the token states"}


@dataclass(frozen=True)
class Origin:
    """Where a model comes from. data, licence: of the training set; steps of `batch` queries each, 0: not trained."""

    base: str
    data: str
    licence: str
    steps: int
    batch: int
    learning_rate: float
    teacher: str
    seed: int


@dataclass(frozen=True)
class Quality:
    """nDCG@10 on a collection, 0 to 1: the full-size reference, this model, and the difference with its interval."""

    collection: str
    licence: str
    reference: float
    model: float
    difference: float
    interval: tuple[float, float]


def card(model: Any, settings: "Settings", cut: "Cut | None", origin: Origin | None) -> str:
    """README.md of an exported folder."""
    from effir.compress.surgery import parameters

    total, without_embeddings = parameters(model)
    return Template((Path(__file__).parent / "card.md").read_text()).substitute(
        family=str(model.config.model_type).removeprefix("effir_"),
        width=model.config.hidden_size,
        total=f"{total:,}",
        without_embeddings=f"{without_embeddings:,}",
        pooling=POOLINGS[settings.pooling],
        query=json.dumps(settings.query_template, ensure_ascii=False),
        document=json.dumps(settings.document_template, ensure_ascii=False),
        query_tokens=settings.max_query_tokens,
        document_tokens=settings.max_document_tokens,
        made="\n".join([what_was_cut(model, cut), *([] if origin is None else [_trained(origin)])]),
    )


def what_was_cut(model: Any, cut: "Cut | None") -> str:
    """Sentences for people; layers are counted from 0, as in the model that was cut."""
    from effir.compress.anatomy import widths

    if cut is None:
        return "Nothing was cut: this is the full-size model."
    dropped = [
        f"{len(layers)} of {cut.layers} {name} (layers {', '.join(map(str, sorted(layers)))})"
        for name, layers in (("MLPs", cut.drop_mlp), ("attentions", cut.drop_attention))
        if layers
    ]
    left = [width for width in widths(model) if width]
    narrowed = [len(kept) for kept in cut.neurons.values() if len(kept)]
    sentences = [f"Dropped: {' and '.join(dropped)}." if dropped else "No sub-layer was dropped."]
    if narrowed:
        sentences.append(
            f"{len(narrowed)} MLPs were narrowed to {min(narrowed)} to {max(narrowed)} neurons; widths are now {_ranges(left)}."
        )
    return " ".join(sentences)


def judged(readme: str, qualities: Sequence[Quality], speed: dict[str, Any], command: str, run: str | None, verdict: str) -> str:
    """The card with what was measured: quality with intervals, speed and where, and how to reproduce it.

    readme: README.md of the exported folder; speed: speed.json; command: what makes the same again; verdict: a word.
    """
    lines = ["## Quality", f"Judged against its own full-size reference, trained the same way: {verdict}. nDCG@10 × 100.", ""]
    lines += ["| collection | licence | reference | this model | difference (95% interval) |", "|---|---|---:|---:|---|"]
    for one in qualities:
        low, high = one.interval
        lines.append(
            f"| {plain(one.collection)} | {plain(one.licence) or 'not stated'} | {100 * one.reference:.1f} | {100 * one.model:.1f} "
            f"| {100 * one.difference:+.1f} ({100 * low:+.1f} to {100 * high:+.1f}) |"
        )
    machine = speed.get("machine") or {}
    where = ", ".join(
        f"{name} {plain(str(machine[name]))}" for name in ("processor", "device", "threads", "dtype", "torch") if name in machine
    )
    lines += ["", "## Speed", f"As many times as fast as the reference, by turns in one process ({where or 'machine not stated'}):", ""]
    for kind, name in (("query", "queries"), ("document", "documents")):
        low, high = speed[kind]["interval"]
        lines.append(f"- {name}: {speed[kind]['ratio']:.2f} ({low:.2f} to {high:.2f})")
    lines += ["", "## How to reproduce it", f"    {command}"]
    lines += ["", f"Run {plain(run)}."] if run else []
    return readme.rstrip("\n") + "\n\n" + "\n".join(lines) + "\n"


def plain(text: str) -> str:
    """Text from data, on one line and without what Markdown or HTML would make something of."""
    return " ".join("".join(" " if character in "|<>`*[]\\" else character for character in text).split())


def _trained(origin: Origin) -> str:
    base, data = plain(origin.base), plain(origin.data)
    if not origin.steps:
        return f"\nBase model: {base}. Not trained."
    licence = f", licence: {plain(origin.licence)}" if origin.licence else ", licence not stated"
    teacher = f" Teacher: {plain(origin.teacher)}." if origin.teacher != "none" else ""
    return (
        f"\nBase model: {base}, whose licence holds for this one, too. Fine-tuned on {data}{licence}, in {origin.steps} steps of "
        f"{origin.batch} queries, learning rate {origin.learning_rate:g}, seed {origin.seed}.{teacher}"
    )


def _ranges(numbers: list[int]) -> str:
    return f"{min(numbers)} to {max(numbers)}" if numbers and min(numbers) < max(numbers) else str(numbers[0] if numbers else "none")
