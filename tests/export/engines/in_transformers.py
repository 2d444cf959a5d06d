"""AutoModel with the folder's own code, pooled by hand; and every other way to open the folder must fail."""

import json
from pathlib import Path
from typing import Any

import golden
import torch
import transformers

transformers.logging.set_verbosity_error()
REFUSALS = ("per-layer", "negative dimension", "Unrecognized configuration class")


def check(folder: str) -> float:
    settings = json.loads((Path(folder) / "effir.json").read_text())["settings"]
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
    model, info = transformers.AutoModel.from_pretrained(folder, trust_remote_code=True, output_loading_info=True)
    assert not any(info.values()), info
    model = model.float().eval()

    def embed(kind: str, texts: list[str], tokens: list[list[int]]) -> Any:
        longest = settings[f"max_{kind}_tokens"]
        given = [settings[f"{kind}_template"].replace("{text}", text) for text in texts]
        batch = tokenizer(given, padding=True, truncation=True, max_length=longest, return_tensors="pt")
        mask = batch["attention_mask"]
        with torch.no_grad():
            states = model(**batch).last_hidden_state
        last = states[torch.arange(len(states)), mask.sum(1) - 1]
        return last if settings["pooling"] == "last" else (states * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)

    found = golden.gap(folder, embed)
    refuse(folder, type(model).__name__.removeprefix("Effir").removesuffix("Model"))
    return found


def refuse(folder: str, family: str) -> None:
    """No stock class may make a model of the folder."""
    for loader in (f"{family}Model", f"{family}ForCausalLM", "AutoModelForCausalLM"):
        if not hasattr(transformers, loader):
            continue
        try:
            getattr(transformers, loader).from_pretrained(folder, trust_remote_code=True)
        except (RuntimeError, ValueError) as error:
            if not any(part in str(error) for part in REFUSALS):
                raise
        else:
            raise AssertionError(f"{loader} loaded it")


golden.tell(check)
