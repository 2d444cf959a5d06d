"""The exported folder under other releases of transformers: EFFIR_PYTHONS names their interpreters, separated by colons."""

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from effir.retrieve.settings import Settings

PYTHONS = [one for one in os.environ.get("EFFIR_PYTHONS", "").split(":") if one]
SCRIPT = """
import json, sys
import torch, transformers
from safetensors.torch import load_file


def check(folder, family, pooling):
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
    model, info = transformers.AutoModel.from_pretrained(folder, trust_remote_code=True, output_loading_info=True)
    assert not any(info.values()), info
    golden, texts = load_file(folder + "/golden.safetensors"), json.load(open(folder + "/golden.json"))["texts"]
    for kind, prefix in (("query", "q: "), ("document", "")):
        batch = tokenizer([prefix + text for text in texts], padding=True, truncation=True, max_length=96, return_tensors="pt")
        states, mask = model(**batch).last_hidden_state, batch["attention_mask"]
        pooled = states[torch.arange(len(states)), mask.sum(1) - 1] if pooling == "last" else (states * mask[..., None]).sum(1)
        gap = (torch.nn.functional.normalize(pooled, dim=-1) - golden[kind]).abs().max()
        assert gap <= 1e-5, (folder, kind, gap)
    for loader in (family + "Model", family + "ForCausalLM", "AutoModelForCausalLM"):
        if not hasattr(transformers, loader):
            continue
        try:
            getattr(transformers, loader).from_pretrained(folder, trust_remote_code=True)
        except (RuntimeError, ValueError) as error:
            assert any(part in str(error) for part in ("per-layer", "negative dimension", "Unrecognized configuration class")), error
        else:
            raise AssertionError(loader + " loaded " + folder)


checked = 0
for folder, family, pooling in json.loads(sys.argv[1]):
    known = hasattr(transformers, family + "Model")
    if known and (family in ("Llama", "Mistral", "Qwen2", "Qwen3") or hasattr(getattr(transformers, family + "Config")(), "layer_types")):
        check(folder, family, pooling)
        checked += 1
print(checked)
"""


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.skipif(not PYTHONS, reason="EFFIR_PYTHONS names no interpreters with other releases of transformers")
@pytest.mark.parametrize("python", PYTHONS)
def test_same_embeddings_and_the_same_refusals(export: Callable[..., Any], tmp_path: Path, python: str) -> None:
    """One process per interpreter for all families, since starting it is what takes long."""
    folders = []
    for family in ("Llama", "Mistral", "Qwen2", "Qwen3", "Gemma2", "Gemma3Text", "ModernBert"):
        for cut, pooling in (("everything", "last"), ("attentions", "last"), ("all mlps", "last"), ("nothing", "last"), ("blocks", "mean")):
            settings = Settings(pooling, "q: {text}", max_query_tokens=96, max_document_tokens=96, append_eos=pooling == "last")
            folders.append((str(export(family, cut, settings).inner), family, pooling))
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {"HF_HOME": str(tmp_path / "hf")}
    command = [python, "-c", SCRIPT, json.dumps(folders)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1100, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    assert int(done.stdout) >= 15
