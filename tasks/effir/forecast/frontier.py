"""How long a frontier takes: what its arms share, once, and every arm."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from effir import planning
from effir.forecast import flops, judging, making
from effir.forecast.estimate import estimate
from effir.forecast.hardware import Hardware
from effir.forecast.volume import Volume
from effir.forecast.work import MINILM_TOKENS, TOKEN, Work, corpus_bytes, handling, lexical, with_encoding, with_model
from effir.spec import RunSpec


def wall(shared: Mapping[str, Sequence[Mapping[str, Any]]], volume: Volume, hardware: Hardware) -> float:
    """Seconds from begin to frontier; nothing is cached.

    shared: bases, teachers, references, scores and arms as `effir.phases.arms.shared` finds them; volume: that of the frontier's own spec,
    whose data all arms share. Raises BadInput where an arm's target is out of reach.
    """
    return max(one.span.end for one in estimate(list(works(shared, volume, hardware.devices)), hardware).values())


def works(shared: Mapping[str, Sequence[Mapping[str, Any]]], volume: Volume, devices: int) -> Iterator[Work]:
    """Every task of `effir_frontier` on so many devices, each after those that it waits for."""
    yield Work("begin", "begin", slot=False)
    yield making.prepare(volume)
    prepared = ["prepare"]
    for number, one in enumerate(shared["bases"][1:], 1):
        prepared.append(f"base {number}")
        other = _of(volume, RunSpec(**volume.spec.model_dump() | dict(one)))
        yield replace(making.prepare(other), name=prepared[-1], after=("prepare",))
    for number, spec in enumerate(_specs(shared["teachers"])):
        yield replace(making.teacher(_of(volume, spec)), name=f"teacher {number}", after=("prepare",))
    for number, one in enumerate(shared["references"]):
        mine = _of(volume, RunSpec(**one["spec"]))
        trained = making.finetune(mine, "reference", devices)
        yield replace(trained, name=f"reference {number}", after=(f"teacher {one['teacher']}",))
        yield replace(assess(mine, "reference"), name=f"landmark {number}", after=(f"reference {number}",))
    for model in ("base", "bm25", "minilm"):
        yield replace(assess(volume, model), name=f"landmark {model}", after=("prepare",))
    for number, one in enumerate(shared["scores"]):
        after = prepared[one["base"]] if one["reference"] is None else f"reference {one['reference']}"
        yield replace(making.importance(_of(volume, RunSpec(**one["spec"]))), name=f"scores {number}", after=(after,))
    ends = []
    for number, one in enumerate(shared["arms"]):
        mine = _of(volume, RunSpec(**one["spec"]))
        before: tuple[str, ...] = (f"scores {one['scores']}", f"reference {one['reference']}", prepared[one["base"]])
        timed = not one["weights"]
        for work in (Work("", "depth"), making.slim(mine, devices), making.narrow(mine), making.finetune(mine, "candidate", devices)):
            name = f"{work.phase} {number}"
            yield replace(work, name=name, after=before)
            before = (name,)
        ends.append(f"assess {number}")
        yield replace(assess(mine, "candidate", timed), name=ends[-1], after=before)
    yield Work("frontier", "frontier", tuple(ends), slot=False, core=judging.REPORTED)


def assess(volume: Volume, model: str, timed: bool = False) -> Work:
    """One model on every collection, in one task; timed: and by turns with the reference."""
    read = sum(map(corpus_bytes, volume.collections))
    core = judging.SEARCHED + sum(handling(one.documents) for one in volume.collections)
    work = Work("assess", "assess", devices=1, heavy=model != "bm25", read=read)
    backbone = volume.cut if model == "candidate" else volume.whole
    if model in {"base", "reference", "candidate"}:
        work = with_model(volume, work, backbone)
    for one in volume.collections:
        if model == "bm25":
            core += lexical(one.documents, one.queries.count)
            continue
        width = judging.MINILM_WIDTH if model == "minilm" else backbone.shape.hidden
        searched = judging.searching(one, width)
        core += searched[0] + TOKEN * (one.documents.count * one.documents.pieces + one.queries.count * one.queries.pieces)
        work = replace(work, processor=work.processor + searched[1])
        if model == "minilm":
            texts = (one.documents, one.queries)
            outside = sum(flops.plain(flops.MINILM, text.tokens(MINILM_TOKENS).tolist(), text.count) for text in texts)
            work, core = replace(work, outside=work.outside + outside), core + judging.SENTENCE_TRANSFORMERS
        else:
            parts = [(volume.documents(one), one.documents.count), (volume.queries(one), one.queries.count)]
            work = with_encoding(volume, work, backbone, parts)
    work = replace(work, core=work.core + core)
    if not timed:
        return work
    turns = judging.speed(volume)
    return replace(work, seconds=turns.seconds, core=work.core + turns.core, read=work.read + turns.read, encode=work.encode + turns.encode)


def _specs(parts: Sequence[Mapping[str, Any]]) -> list[RunSpec]:
    return [RunSpec(**one["spec"]) for one in parts]


def _of(volume: Volume, spec: RunSpec) -> Volume:
    """The same data for another spec, with what that one cuts."""
    whole, shallow, cut = planning.stages(spec)
    return replace(volume, spec=spec, whole=whole, shallow=shallow, cut=cut)
