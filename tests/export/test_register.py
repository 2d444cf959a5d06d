import subprocess
import sys
from collections.abc import Callable
from typing import Any

SCRIPT = """
import sys
import effir.export.register
from transformers import AutoModel, AutoTokenizer
from sentence_transformers import SentenceTransformer
model = AutoModel.from_pretrained(sys.argv[1])
assert type(model).__module__ == "effir.export.modeling_effir", type(model)
assert AutoTokenizer.from_pretrained(sys.argv[1])("a")["input_ids"]
assert SentenceTransformer(sys.argv[1], device="cpu").encode_query("a").shape == (32,)
assert not [name for name in sys.modules if name.startswith("transformers_modules")]
print(type(model).__name__)
"""


def test_no_remote_code_is_needed(export: Callable[..., Any]) -> None:
    """In a process of its own, since registering is for good."""
    done = subprocess.run([sys.executable, "-c", SCRIPT, str(export("Qwen2").inner)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip() == "EffirQwen2Model"
