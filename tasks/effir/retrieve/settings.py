"""What makes a backbone a retriever and must travel with it: pooling, templates, lengths."""

import json
from dataclasses import asdict, dataclass, fields, replace

from effir.errors import shown
from effir.spec import RunSpec


@dataclass(frozen=True)
class Settings:
    """Templates hold {text} once, with line breaks already real; lengths are in tokens, the appended eos included.

    Raises ValueError for values that cannot be.
    """

    pooling: str = "last"
    query_template: str = "{text}"
    document_template: str = "{text}"
    max_query_tokens: int = 512
    max_document_tokens: int = 512
    append_eos: bool = True
    normalize: bool = True

    def __post_init__(self) -> None:
        for one in fields(self):
            if type(getattr(self, one.name)) is not type(one.default):
                raise ValueError(f"{one.name} is {shown(getattr(self, one.name))}, not {type(one.default).__name__}")
        if self.pooling not in ("last", "mean"):
            raise ValueError(f"pooling is {shown(self.pooling)}, neither last nor mean")
        if min(self.max_query_tokens, self.max_document_tokens) < 1:
            raise ValueError("a text may have no token")
        if not all(template.count("{text}") == 1 for template in (self.query_template, self.document_template)):
            raise ValueError("a template does not hold {text} once")

    @classmethod
    def from_spec(cls, spec: RunSpec) -> "Settings":
        """The part of a spec that a model carries with it."""
        return cls(
            pooling=spec.pooling,
            query_template=spec.query_template.replace("\\n", "\n"),
            document_template=spec.document_template.replace("\\n", "\n"),
            max_query_tokens=spec.max_query_tokens,
            max_document_tokens=spec.max_document_tokens,
            append_eos=spec.pooling == "last",
        )

    @classmethod
    def for_training(cls, spec: RunSpec) -> "Settings":
        """The same with documents cut as in training."""
        return replace(cls.from_spec(spec), max_document_tokens=spec.max_training_tokens)

    def to_json(self) -> str:
        """JSON text."""
        return json.dumps(asdict(self), indent=1)

    @classmethod
    def from_json(cls, text: str) -> "Settings":
        """Read what `to_json` wrote."""
        return cls(**json.loads(text))
