"""A verdict and the rules behind it, as JSON and as text."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any


@dataclass(frozen=True)
class Rule:
    """One rule and its outcome; value and bound are None where there is nothing to measure."""

    rule: str
    passed: bool
    text: str
    value: float | None = None
    bound: float | None = None
    collection: str | None = None
    interval: tuple[float, float] | None = None


@dataclass(frozen=True)
class Statement:
    """Better or worse than another model on one collection; p is adjusted for all that is stated beside it (Holm).

    difference: mean of candidate minus that model, -1 to 1.
    """

    text: str
    collection: str
    against: str
    difference: float
    p: float
    significant: bool


@dataclass(frozen=True)
class Verdict:
    """`promoted` or `rejected`, why, and how it was found out."""

    verdict: str
    reasons: list[str]
    rules: list[Rule]
    method: str
    n: dict[str, dict[str, int]]
    resamples: int
    seed: int
    confidence: float
    champion: dict[str, Any] | None
    candidate: dict[str, Any]
    statements: list[Statement] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """As verdict.json holds it; absent parts of a rule are left out."""
        plain = asdict(self)
        plain["rules"] = [{key: value for key, value in rule.items() if value is not None} for rule in plain["rules"]]
        return plain

    @classmethod
    def from_json(cls, told: Mapping[str, Any]) -> "Verdict":
        """The verdict that verdict.json holds; what else it tells is left out."""
        rules, statements = [Rule(**one) for one in told["rules"]], [Statement(**one) for one in told["statements"]]
        return cls(**{one.name: told[one.name] for one in fields(cls)} | {"rules": rules, "statements": statements})

    def but(self, rule: Rule) -> "Verdict":
        """The same with one more rule, which decides if it does not hold."""
        reasons = self.reasons if rule.passed or self.verdict == "rejected" else []
        verdict = self.verdict if rule.passed else "rejected"
        return replace(self, verdict=verdict, rules=[*self.rules, rule], reasons=[*reasons, rule.text])

    def to_markdown(self) -> str:
        """The same as text: a sentence and a table of the rules."""
        lines = [f"# {self.verdict.capitalize()}", "", *[f"- {reason}" for reason in self.reasons], ""]
        lines += ["| rule | collection | value | bound | outcome | |", "|---|---|---:|---:|---|---|"]
        for rule in self.rules:
            outcome = "holds" if rule.passed else "**fails**"
            cells = [rule.rule, rule.collection or "", _number(rule.value), _number(rule.bound), outcome, rule.text]
            lines.append("| " + " | ".join(cells) + " |")
        lines += ["", *[f"- {one.text}" for one in self.statements if one.significant]]
        sizes = ", ".join(f"{name} {size['queries']} in {size['clusters']} clusters" for name, size in self.n.items())
        lines += ["", f"{self.method} Confidence {self.confidence:g}, {self.resamples} resamples, seed {self.seed}."]
        lines += ["", f"Queries judged: {sizes or 'none'}."]
        crowned = f"version {self.champion['version']} ({self.champion['digest']})" if self.champion else "none"
        lines += ["", f"Candidate {self.candidate['digest']}, champion at the time: {crowned}."]
        return "\n".join(lines) + "\n"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}" if abs(value) < 1000 else f"{value:,.0f}"
