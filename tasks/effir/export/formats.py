"""Other formats of an exported model, written on demand: `effir export MODEL --to onnx`. Each carries the golden embeddings along."""

import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Any

import torch
from huggingface_hub import save_torch_state_dict

from effir import strictjson
from effir.errors import BadInput, EffirError
from effir.export import configuration_decilm, decilm, describing, loading, onnx_graph, trust, writer
from effir.retrieve.encode import Encoder

ALWAYS = ("tokenizer.json", "tokenizer_config.json", "golden.json", "golden.safetensors")
SENTENCES = (
    "modules.json",
    "sentence_bert_config.json",
    "config_sentence_transformers.json",
    "1_Pooling/config.json",
    "2_Normalize/config.json",
)


@dataclass(frozen=True)
class Format:
    """write(model folder, new folder); embedder(folder) → what has encode(texts, kind); loader: how its embeddings are computed here."""

    write: Callable[[Path, Path], None]
    embedder: Callable[[Path], Any]
    loader: str
    code: Path | None
    files: tuple[str, ...]
    card: str


def export(source: Path, to: str, folder: Path) -> dict[str, float]:
    """Write the exported model in `source` to the new folder `folder` in another format; loader → largest difference from golden.

    Nothing is left behind if the result does not give the golden embeddings, or anything else goes wrong.
    Raises BadInput for a foreign source, an unknown format, a model that the format has no place for, or a folder that exists;
    EffirError naming the difference.
    """
    from effir.export.verify import TOLERANCE

    if to not in FORMATS:
        raise BadInput(f"{to!r} is no format: choose one of {', '.join(FORMATS)}")
    if folder.exists():
        raise BadInput(f"{folder} exists already: name a new folder with --out, or remove it")
    trust.check(source)
    inner, chosen = loading.model_folder(source), FORMATS[to]
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".export-", dir=folder.parent) as scratch:
        made = Path(scratch) / "made"
        for name in (*ALWAYS, *chosen.files):
            (made / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(inner / name, made / name)
        chosen.write(inner, made)
        (made / "README.md").write_text(_card(inner, made, chosen))
        about = {"settings": strictjson.table(inner / loading.SETTINGS)["settings"], "format": to}
        writer.write_json(made, {loading.SETTINGS: about})
        writer.write_json(made, {loading.SETTINGS: about | {"files": writer.digests(made)}})
        found = differences(made)
        if not max(found.values()) <= TOLERANCE:
            raise EffirError(
                f"the model written for {to} does not give the golden embeddings: the largest difference is {max(found.values()):.2e}, "
                f"allowed are {TOLERANCE:.0e}; nothing was kept"
            )
        made.rename(folder)
    return found


def format_of(folder: Path) -> str | None:
    """The format of a folder that `effir export` wrote; None for any other."""
    path = folder / loading.SETTINGS
    told = strictjson.table(path).get("format") if path.is_file() else None
    return told if told in FORMATS else None


def differences(folder: Path) -> dict[str, float]:
    """Loader → largest absolute difference from the golden embeddings, of a folder that `effir export` wrote.

    Raises BadInput for a damaged or foreign folder, before any of it is loaded.
    """
    from effir.export.verify import against_golden

    chosen = FORMATS[str(format_of(folder))]
    trust.check_converted(folder, chosen.code)
    embedder = chosen.embedder(folder)
    return {chosen.loader: against_golden(folder, embedder.encode)}


def _write_decilm(reader: str) -> Callable[[Path, Path], None]:
    def write(inner: Path, folder: Path) -> None:
        model = loading.load_backbone(inner)
        decilm.check(model, loading.load_settings(inner), reader)
        if reader == "llama.cpp":
            decilm.check_tokenizer(inner / "tokenizer.json", model.config.vocab_size)
        writer.write_json(folder, {"config.json": decilm.describe(model, reader)})
        shutil.copyfile(configuration_decilm.__file__, folder / "configuration_decilm.py")
        save_torch_state_dict(decilm.tensors(model, reader), folder, max_shard_size="2GB", metadata={"format": "pt"})

    return write


def _decilm_encoder(folder: Path) -> Encoder:
    from transformers import PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)
    return Encoder(decilm.reload(folder).to(torch.float32), tokenizer, loading.load_settings(folder))


def _write_onnx(inner: Path, folder: Path) -> None:
    onnx_graph.write(inner, folder)
    described = {name: value for name, value in strictjson.table(inner / "config.json").items() if name != "auto_map"}
    writer.write_json(folder, {"config.json": described})


def _onnx_encoder(folder: Path) -> Any:
    from effir.export.onnx_encoder import OnnxEncoder

    return OnnxEncoder(folder)


def _card(inner: Path, made: Path, chosen: Format) -> str:
    settings = loading.load_settings(inner)
    told = strictjson.table(made / "tokenizer_config.json")
    return Template((Path(__file__).parent / chosen.card).read_text()).substitute(
        query=repr(describing.prefix_of(settings.query_template)),
        document=repr(describing.prefix_of(settings.document_template)),
        query_tokens=settings.max_query_tokens,
        document_tokens=settings.max_document_tokens,
        pooling=settings.pooling,
        pad=repr(told["pad_token"]),
    )


_OWN = Path(configuration_decilm.__file__)
FORMATS = {
    "decilm": Format(_write_decilm("decilm"), _decilm_encoder, "decilm", _OWN, SENTENCES, "card_decilm.md"),
    "llama.cpp": Format(_write_decilm("llama.cpp"), _decilm_encoder, "decilm", _OWN, SENTENCES, "card_llamacpp.md"),
    "onnx": Format(_write_onnx, _onnx_encoder, "onnxruntime", None, (), "card_onnx.md"),
}
