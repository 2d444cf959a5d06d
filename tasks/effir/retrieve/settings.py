"""What makes a backbone a retriever and must travel with it: pooling, templates, lengths."""

import json
from dataclasses import asdict, dataclass, replace

from effir.spec import RunSpec


@dataclass(frozen=True)
class Settings:
    """Templates hold {text} once, with line breaks already real; lengths are in tokens, the appended eos included."""

    pooling: str = "last"
    query_template: str = "{text}"
    document_template: str = "{text}"
    max_query_tokens: int = 512
    max_document_tokens: int = 512
    append_eos: bool = True
    normalize: bool = True

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
