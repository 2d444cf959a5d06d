"""llama.cpp on FOLDER.gguf, which its own converter made of a folder, given token ids; pooled by it."""

import ctypes
import json
from pathlib import Path
from typing import Any

import golden
import llama_cpp as library
import numpy as np


@library.llama_log_callback
def silent(level: int, text: bytes, data: Any) -> None:
    pass


def check(folder: str) -> float:
    model = library.llama_model_load_from_file(f"{folder}.gguf".encode(), library.llama_model_default_params())
    if not model:
        raise ValueError("llama.cpp does not load it")
    settings = library.llama_context_default_params()
    settings.n_ctx = settings.n_batch = settings.n_ubatch = 512
    settings.embeddings = True
    settings.type_k = settings.type_v = settings.flash_attn_type = 0  # float32, as it was converted
    pooling = json.loads((Path(folder) / "effir.json").read_text())["settings"]["pooling"]
    settings.pooling_type = {"last": library.LLAMA_POOLING_TYPE_LAST, "mean": library.LLAMA_POOLING_TYPE_MEAN}[pooling]
    context = library.llama_init_from_model(model, settings)
    width = library.llama_model_n_embd(model)
    return golden.gap(folder, lambda kind, texts, tokens: np.array([vector(context, ids, width) for ids in tokens]))


def vector(context: Any, ids: list[int], width: int) -> Any:
    library.llama_memory_clear(library.llama_get_memory(context), True)
    batch = library.llama_batch_init(len(ids), 0, 1)
    batch.n_tokens = len(ids)
    for place, token in enumerate(ids):
        batch.token[place], batch.pos[place], batch.logits[place] = token, place, 1
        batch.n_seq_id[place], batch.seq_id[place][0] = 1, 0
    assert library.llama_decode(context, batch) == 0
    return np.ctypeslib.as_array(library.llama_get_embeddings_seq(context, 0), shape=(width,)).copy()


library.llama_backend_init()
library.llama_log_set(silent, ctypes.c_void_p(0))
golden.tell(check)
