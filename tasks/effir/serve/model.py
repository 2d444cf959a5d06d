"""A model that answers: found, fetched, compared with its golden embeddings, loaded, and called by its version.

No code that a folder carries is run, whatever it is (effir.export.trust, effir.export.loading).
"""

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from effir.errors import BadInput, EffirError
from effir.export import trust
from effir.export.loading import SETTINGS, load_encoder, model_folder
from effir.export.verify import LOADERS, TOLERANCE, farthest
from effir.manifest import sha256_of
from effir.reading import read_arrays, read_json
from effir.retrieve.encode import Encoder, pass_tokens
from effir.services import registry, scratch


@dataclass(frozen=True)
class Version:
    """Which version of which model; digest: of its artifact, None where nobody noted it."""

    name: str
    version: str
    digest: str | None = None

    def __str__(self) -> str:
        return f"{self.name}/{self.version}"


@dataclass(frozen=True, eq=False)
class Served:
    """A loaded model."""

    version: Version
    encoder: Encoder
    _tokenizing: threading.Lock = field(default_factory=threading.Lock, repr=False)

    @property
    def width(self) -> int:
        """Dimensions of its vectors."""
        return self.encoder.model.config.hidden_size

    def tokenize(self, texts: Sequence[str], kind: str) -> list[list[int]]:
        """Token ids of queries or documents (`kind`), cut at the model's maximum. One thread at a time: a fast tokenizer is not shared."""
        with self._tokenizing:
            return self.encoder.tokenize(texts, kind)

    def embed(self, tokens: Sequence[Sequence[int]], batch_tokens: int) -> np.ndarray:
        """Unit vectors, float32, (n, d), in length-sorted passes of pass_tokens(device, batch_tokens)."""
        return self.encoder.encode_tokens(tokens, pass_tokens(self.encoder.device, batch_tokens))


def follows(source: str) -> bool:
    """Whether a model's address may come to name another version."""
    return source.startswith("models:/") and "@" in source


def find(source: str) -> Version:
    """The version that models:/NAME@ALIAS, models:/NAME/VERSION or a folder names now. Raises BadInput if there is none.

    A folder is called by its name, its version is the beginning of the sha256 of its effir.json, which names all of its files.
    """
    if source.startswith("models:/"):
        found = registry.find_model(source)
        parsed = registry.MODEL_URI.match(source)
        return Version(parsed["name"] if parsed else source, found["version"], found["digest"])
    folder = Path(source)
    if not folder.is_dir():
        raise BadInput(f"{source} is no folder: name a folder with an exported model, models:/NAME@ALIAS or models:/NAME/VERSION")
    settings = model_folder(folder) / SETTINGS
    if not settings.is_file():
        raise BadInput(f"{folder} is not a folder that effir exported ({SETTINGS} is missing): export the model with effir")
    digest = sha256_of(settings)
    return Version(folder.resolve().name, digest[:12], digest)


def load(source: str, version: Version, device: str = "cpu") -> Served:
    """Load this version, once it gave its golden embeddings. Raises EffirError (BadInput) where it is damaged, foreign or another model."""
    if not source.startswith("models:/"):
        return _load(Path(source), version, device)
    with scratch.folder("serve") as own:
        return _load(registry.download_model(f"models:/{version}", own), version, device)


def _load(folder: Path, version: Version, device: str) -> Served:
    check(folder, device)
    return Served(version, load_encoder(folder, device=device))


def check(folder: Path, device: str = "cpu") -> float:
    """Largest difference of a component from the golden embeddings, in float32. Raises EffirError if it is beyond TOLERANCE."""
    trust.check(folder)
    inner = model_folder(folder)
    golden = read_arrays(inner / "golden.safetensors")
    found = LOADERS["effir"](inner, read_json(inner / "golden.json"), device)
    difference = farthest(found, golden)
    if not difference <= TOLERANCE:
        raise EffirError(
            f"{folder} does not give its golden embeddings: the largest difference is {difference:.2e}, allowed are {TOLERANCE:.0e}"
        )
    return difference
