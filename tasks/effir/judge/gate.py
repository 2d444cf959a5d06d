"""The verdict: may the candidate replace the full-size reference, and the champion? Every rule with value, bound and outcome.

The candidate passes only if all rules hold. A rule that cannot be evaluated does not hold.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeGuard

from effir.judge.quality import METHOD, Limits, Table, complete, no_collapse, not_inferior, statements, worthy_reference
from effir.judge.verdict import Rule, Verdict


@dataclass(frozen=True)
class Candidate:
    """What stands before the gate: the artifact's digest, its files' sha256 by path, and its number of parameters."""

    digest: str
    files: Mapping[str, str]
    parameters: int


def judge(
    scores: Table, speed: Mapping[str, Any], proof: Mapping[str, Any], candidate: Candidate, champion: dict[str, Any] | None, limits: Limits
) -> Verdict:
    """The verdict on a candidate.

    scores: model → collection → per-query scores, for base, reference, candidate and, where there is one, champion;
    speed, proof: as speed.json and proof.json hold them; champion: {version, digest} of the crowned version, or None. A candidate that is
    the champion is judged by the limits like any other, but not against itself.
    """
    sizes = {
        name: {"queries": len(found.queries), "clusters": len(set(found.clusters))}
        for name in limits.collections
        if (found := scores.get("candidate", {}).get(name))
    }
    itself = bool(champion and champion.get("digest") == candidate.digest)
    rival = champion if not itself else None
    rules = [
        *complete(scores, limits),
        *worthy_reference(scores, limits),
        *no_collapse(scores, limits),
        *not_inferior("reference", scores, limits),
        *(not_inferior("champion", scores, limits) if rival else []),
        *_fast_enough(speed, limits),
        *_small_enough(candidate, limits),
        _reloads(proof, candidate),
    ]
    failed = [rule.text for rule in rules if not rule.passed]
    reasons = failed or ["already champion" if itself else f"all {len(rules)} rules hold"]
    return Verdict(
        verdict="promoted" if all(rule.passed for rule in rules) else "rejected",
        reasons=reasons, rules=rules, method=METHOD, n=sizes, resamples=limits.resamples, seed=limits.seed, confidence=limits.confidence,
        champion={"version": champion.get("version"), "digest": champion.get("digest")} if champion else None,
        candidate={"digest": candidate.digest, "parameters": candidate.parameters},
        statements=statements(scores, ["reference", "champion"] if rival else ["reference"], limits),
    )  # fmt: skip


def _fast_enough(speed: Mapping[str, Any], limits: Limits) -> list[Rule]:
    rules = []
    for kind, least in (("query", limits.min_query_speedup), ("document", limits.min_document_speedup)):
        found = speed.get(kind) or {}
        ratio, interval = found.get("ratio"), found.get("interval")
        if not _finite(ratio) or not interval or not all(_finite(end) for end in interval):
            rules.append(Rule(f"{kind}_speedup", False, f"no {kind} speed-up was measured", None, least))
            continue
        low, high = interval
        measured = f"{ratio:.2f} times as fast as the reference's (95% interval {low:.2f} to {high:.2f})"
        text = f"{kind} encoding is {measured}; at least {least:g} is asked"
        rules.append(Rule(f"{kind}_speedup", ratio >= least, text, ratio, least, None, (low, high)))
    return rules


def _small_enough(candidate: Candidate, limits: Limits) -> list[Rule]:
    if limits.max_parameters is None:
        return []
    text = f"the candidate has {candidate.parameters:,} parameters; at most {limits.max_parameters:,} are allowed"
    return [Rule("parameters", 0 < candidate.parameters <= limits.max_parameters, text, candidate.parameters, limits.max_parameters)]


def _reloads(proof: Mapping[str, Any], candidate: Candidate) -> Rule:
    """The stored files, loaded afresh in every way, give the golden embeddings and the vectors that were evaluated.

    Each difference has its own tolerance (`tolerances`, otherwise `tolerance`); value and bound are those of the one nearest to failing.
    """
    found, files = proof.get("loaders") or {}, proof.get("files") or {}
    allowed: dict[str, Any] = {name: (proof.get("tolerances") or {}).get(name, proof.get("tolerance")) for name in found}
    beyond = {name: gap for name, gap in found.items() if not _finite(gap) or not _finite(allowed[name]) or gap > allowed[name]}
    changed = sorted(path for path, digest in files.items() if candidate.files.get(path) != digest)
    unproven = sorted(path for path in candidate.files if path.startswith("model/") and path not in files)
    if proof.get("candidate") != candidate.digest:
        return Rule("reloads", False, f"the proof of reloading is for {proof.get('candidate')}, not for this candidate")
    if changed or unproven or not files:
        named = ", ".join((changed + unproven)[:3]) or "every file"
        return Rule("reloads", False, f"the proof of reloading does not cover the candidate's files as they are stored: {named}")
    if beyond or not found or not proof.get("passed"):
        gaps = ", ".join(f"{name} differs by {gap} where {allowed[name]} is allowed" for name, gap in (beyond or found).items())
        return Rule("reloads", False, f"the stored model does not give the embeddings that were evaluated: {gaps or 'nothing was loaded'}")
    worst = max(found, key=lambda name: found[name] / allowed[name] if allowed[name] else math.inf)
    text = f"the stored files give the embeddings that were evaluated ({', '.join(found)}); nearest to its tolerance is {worst}"
    return Rule("reloads", True, text, found[worst], allowed[worst])


def _finite(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and math.isfinite(value)
