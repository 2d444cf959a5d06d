"""The exported folder under other releases of transformers: EFFIR_PYTHONS names their interpreters, separated by colons."""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from effir.retrieve.settings import Settings

PYTHONS = [one for one in os.environ.get("EFFIR_PYTHONS", "").split(":") if one]
SCRIPT = """
import json, sys
import torch, transformers
from safetensors.torch import load_file

folder, family, pooling, query, document = sys.argv[1:]
if not hasattr(transformers, family + "Model"):
    print("unknown", transformers.__version__)
    sys.exit()
tokenizer = transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
model, info = transformers.AutoModel.from_pretrained(folder, trust_remote_code=True, output_loading_info=True)
assert not any(info.values()), info
golden, texts = load_file(folder + "/golden.safetensors"), json.load(open(folder + "/golden.json"))["texts"]
for kind, prefix in (("query", query), ("document", document)):
    batch = tokenizer([prefix + text for text in texts], padding=True, truncation=True, max_length=96, return_tensors="pt")
    states, mask = model(**batch).last_hidden_state, batch["attention_mask"]
    pooled = states[torch.arange(len(states)), mask.sum(1) - 1] if pooling == "last" else (states * mask[..., None]).sum(1)
    gap = (torch.nn.functional.normalize(pooled, dim=-1) - golden[kind]).abs().max()
    assert gap <= 1e-5, (kind, gap)
for loader in (family + "Model", family + "ForCausalLM", "AutoModelForCausalLM"):
    try:
        getattr(transformers, loader).from_pretrained(folder, trust_remote_code=True)
    except (RuntimeError, ValueError) as error:
        assert any(part in str(error) for part in ("per-layer", "negative dimension", "Unrecognized configuration class")), error
    else:
        raise AssertionError(loader + " loaded the folder")
print("same", transformers.__version__)
"""


@pytest.mark.skipif(not PYTHONS, reason="EFFIR_PYTHONS names no interpreters with other releases of transformers")
@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize("pooling", ["last", "mean"])
def test_same_embeddings_and_the_same_refusals(export: Callable[..., Any], tmp_path: Path, family: str, python: str, pooling: str) -> None:
    settings = Settings(
        pooling=pooling, append_eos=pooling == "last", query_template="q: {text}", max_query_tokens=96, max_document_tokens=96
    )
    for cut in ("everything", "attentions", "all mlps", "nothing") if pooling == "last" else ("everything",):
        inner = export(family, cut, settings, dtype=torch.float32).inner
        command = [python, "-c", SCRIPT, str(inner), family, pooling, "q: ", ""]
        done = subprocess.run(command, capture_output=True, text=True, timeout=240, env=os.environ | {"HF_HOME": str(tmp_path / "hf")})
        assert done.returncode == 0, done.stderr[-3000:]
        assert done.stdout.startswith(("same", "unknown")), done.stdout
