"""What a phase does not use is not imported with transformers, and is there for whoever asks for it."""

import subprocess
import sys

import pytest

LOOK = """
import sys
from effir.{first} import *
assert not {{"sklearn", "pandas", "pyarrow"}} & set(sys.modules), sorted(sys.modules)
import sklearn.metrics, sentence_transformers
from transformers.models.llama.modeling_llama import LlamaModel
print("fine")
"""


@pytest.mark.parametrize("first", ["export.loading", "compress.surgery", "train.loop"])
def test_scikit_learn_stays_out_until_it_is_asked_for(first: str) -> None:
    done = subprocess.run([sys.executable, "-c", LOOK.format(first=first)], capture_output=True, text=True, timeout=120)
    assert done.stdout == "fine\n", done.stderr[-2000:]
