"""`make test-export`: tiny exported models opened by every engine that runs on a machine without a GPU, each in an environment of its own.

`python -m tests.export.matrix [--only NAME,NAME] [--families NAME,NAME] [--write]`. Prints the table of docs/engines.md (--write: puts it
there). Ends with 1 where a cell is neither a small difference nor an expected refusal. Environments are made once, in .effir/engines.
"""

import argparse
import json
import os
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import transformers

from effir.compress import surgery
from effir.errors import BadInput
from effir.export import formats, verify, writer
from effir.retrieve.settings import Settings

from . import loops
from .conftest import CUTS, FAMILIES, backbone, byte_tokenizer
from .test_decilm import llama_tokenizer

ROOT = Path(__file__).parents[2]
HOME = ROOT / ".effir" / "engines"
DOCUMENT = ROOT / "docs" / "engines.md"
MARKS = ("<!-- made by make test-export -->", "<!-- end -->")
SMALL = 1e-5
VARIANTS = (("last", "everything"), ("mean", "mlps"))
AS_MODEL_ALONE = (("last", "nothing"), ("last", "all mlps"), ("mean", "blocks"))
TORCH = "torch==2.13.0"
OLD = ("transformers==4.46.3", "sentence-transformers==5.7.0")
NEW = "sentence-transformers==6.2.0"


@dataclass(frozen=True)
class Engine:
    """A row: which folder (format) it reads, by which script, with which packages. `lacks`: what an old release says of a new family."""

    name: str
    script: str
    packages: tuple[str, ...]
    format: str = "model"
    lacks: str = "needs a later transformers"


ENGINES = (
    Engine("transformers 4.46.3", "in_transformers.py", (TORCH, *OLD)),
    *(Engine(f"transformers {one}", "in_transformers.py", (TORCH, f"transformers=={one}", NEW)) for one in ("5.16.1", "5.20.2", "5.23.0")),
    Engine("sentence-transformers 5.7.0, transformers 4.46.3", "in_sentence_transformers.py", (TORCH, *OLD)),
    *(
        Engine(f"sentence-transformers 6.2.0, transformers {one}", "in_sentence_transformers.py", (TORCH, f"transformers=={one}", NEW))
        for one in ("5.16.1", "5.20.2", "5.23.0")
    ),
    Engine("onnxruntime 1.31.1", "in_onnxruntime.py", ("onnxruntime==1.31.1", "tokenizers", "safetensors", "numpy"), "onnx"),
    Engine("mlx-lm 0.32.2", "in_mlx.py", ("mlx-lm==0.32.2", "mlx==0.32.4", "mlx-cpu==0.32.4", "safetensors"), "decilm"),
    Engine("llama.cpp (llama-cpp-python 0.3.36)", "in_llamacpp.py", ("safetensors", "numpy"), "llama.cpp"),
)
LOOPS = {
    "vLLM 0.33 and SGLang: schema, layer loop": "fused",
    "TensorRT-LLM: schema, layer loop": "without biases",
}
ONE_KIND = "Validation error for field 'rope_parameters'"
LLAMA_CPP = "llama-cpp-python==0.3.36"


def exported(folder: Path, families: list[str], wanted: set[str]) -> dict[str, list[tuple[str, Path]]]:
    """Format → (family, folder) of tiny models in it, pooled at the last token and by the mean. What is refused has no folder."""
    made: dict[str, list[tuple[str, Path]]] = {"model": []} | {name: [] for name in formats.FORMATS}
    for family in families:
        for pooling, cut in (*VARIANTS, *AS_MODEL_ALONE):
            settings = Settings(pooling, "q: {text}", max_query_tokens=96, max_document_tokens=96, append_eos=pooling == "last")
            model = backbone(family) if CUTS[cut] is None else surgery.apply(backbone(family), CUTS[cut])
            place = folder / f"{family}-{pooling}-{cut}".replace(" ", "-")
            writer.write(model, llama_tokenizer() if family in ("Llama", "Mistral") else byte_tokenizer(), CUTS[cut], settings, place)
            assert max(verify.verify(place).values()) <= SMALL
            made["model"].append((family, place / "model"))
            for name in wanted - {"model"} if (pooling, cut) in VARIANTS else ():
                try:
                    formats.export(place, name, folder / name / place.name)
                except BadInput as refusal:
                    print(f"  {place.name} as {name}: {refusal}", file=sys.stderr)
                else:
                    made[name].append((family, folder / name / place.name))
    return made


def python_of(engine: Engine) -> Path:
    """The interpreter of an environment with the engine's packages, made where it is absent."""
    folder = HOME / "-".join(one.replace("==", "-") for one in engine.packages)
    if not (folder / "ready").exists():
        print(f"  installing {', '.join(engine.packages)}", file=sys.stderr)
        subprocess.run([ROOT / "requirements" / "setup", "engine", folder, *engine.packages], check=True)
        (folder / "ready").touch()
    return folder / "bin" / "python"


def told(engine: Engine, folders: list[tuple[str, Path]]) -> dict[str, Any]:
    """Folder → largest difference, or what went wrong."""
    python = llamacpp([folder for _, folder in folders]) if engine.format == "llama.cpp" else python_of(engine)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {"HF_HOME": str(HOME / "hf")}
    command = [python, Path(__file__).parent / "engines" / engine.script, *(folder for _, folder in folders)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment | {"TRANSFORMERS_VERBOSITY": "error"})
    if done.returncode:
        raise SystemExit(f"{engine.name}: {done.stderr[-3000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def llamacpp(folders: list[Path]) -> Path:
    """llama.cpp built from the source that its Python binding carries, whose converter makes a .gguf of each folder."""
    source = HOME / "llama-cpp"
    if not source.exists():
        print("  building llama.cpp, for some minutes", file=sys.stderr)
        subprocess.run(
            [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:", "-d", source, LLAMA_CPP], check=True
        )
        (archive,) = source.glob("*.tar.gz")
        with tarfile.open(archive) as packed:
            packed.extractall(source, filter="data")
    (archive,) = source.glob("*.tar.gz")
    folder = HOME / "llama-cpp-environment"
    if not (folder / "ready").exists():
        subprocess.run([ROOT / "requirements" / "setup", "engine", folder, archive, "safetensors", "numpy"], check=True)
        (folder / "ready").touch()
    (code,) = source.glob("*/vendor/llama.cpp")
    newest = python_of(next(one for one in ENGINES if one.name == "transformers 5.23.0"))
    environment = os.environ | {"PYTHONPATH": str(code / "gguf-py")}
    for one in folders:
        command = [newest, code / "convert_hf_to_gguf.py", one, "--outfile", f"{one}.gguf", "--outtype", "f32"]
        subprocess.run(command, check=True, capture_output=True, env=environment)
    return folder / "bin" / "python"


def looped(reader: str, folders: list[tuple[str, Path]]) -> dict[str, Any]:
    """The same by the schema's rules and an emulated layer loop, for engines that need a GPU."""
    found: dict[str, Any] = {}
    for _, folder in folders:
        wrong = loops.schema(json.loads((folder / "config.json").read_text()))
        try:
            found[str(folder)] = "; ".join(wrong) or loops.farthest(folder, reader)
        except AssertionError as unread:
            found[str(folder)] = "reads no biases" if "bias" in str(unread) else str(unread)
    return found


def cell(engine: Engine | None, found: list[Any]) -> tuple[str, bool]:
    """What the table says of a family in an engine, and whether that is as it should be."""
    if not found:
        return "refused", True
    if any("biases" in str(one) for one in found):
        return "no biases", True
    if engine is not None and any(engine.lacks in str(one) for one in found):
        return "unknown", True
    if any(ONE_KIND in str(one) for one in found) and any(isinstance(one, float) and one <= SMALL for one in found):
        return "in part", True
    if all(isinstance(one, float) for one in found):
        return f"{max(found):.0e}", max(found) <= SMALL
    return str(next(one for one in found if not isinstance(one, float))), False


def row(engine: Engine | None, found: dict[str, Any], folders: list[tuple[str, Path]], families: list[str]) -> list[tuple[str, bool]]:
    """What the cells of an engine's row say."""
    return [cell(engine, [found[str(folder)] for one, folder in folders if one == family]) for family in families]


def rows(families: list[str], only: list[str]) -> Iterator[tuple[str, list[tuple[str, bool]]]]:
    """A row an engine: its name, and what its cells say."""
    engines = [one for one in ENGINES if not only or any(part in one.name for part in only)]
    looping = {name: reader for name, reader in LOOPS.items() if not only or any(part in name for part in only)}
    with tempfile.TemporaryDirectory() as folder:
        made = exported(Path(folder), families, {one.format for one in engines} | ({"decilm"} if looping else set()))
        for engine in engines:
            print(f"  {engine.name}", file=sys.stderr)
            yield engine.name, row(engine, told(engine, made[engine.format]), made[engine.format], families)
        for name, reader in looping.items():
            yield name, row(None, looped(reader, made["decilm"]), made["decilm"], families)


def main() -> int:
    """0 if every cell is as it should be."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--only", default="", help="rows whose names hold one of these, with commas")
    arguments.add_argument("--families", default="", help="columns, with commas")
    arguments.add_argument("--write", action="store_true", help="put the table into docs/engines.md")
    asked = arguments.parse_args()
    transformers.logging.set_verbosity_error()
    families = [family for family in FAMILIES if not asked.families or family in asked.families.split(",")]
    found = list(rows(families, [one for one in asked.only.split(",") if one]))
    lines = [f"| engine | {' | '.join(families)} |", f"|---|{'---|' * len(families)}"]
    lines += [f"| {name} | {' | '.join(text for text, _ in cells)} |" for name, cells in found]
    print("\n".join(lines))
    if asked.write:
        before, _, rest = DOCUMENT.read_text().partition(MARKS[0])
        DOCUMENT.write_text("\n".join([before + MARKS[0], *lines, MARKS[1] + rest.partition(MARKS[1])[2]]))
    return 0 if all(right for _, cells in found for _, right in cells) else 1


if __name__ == "__main__":
    sys.exit(main())
