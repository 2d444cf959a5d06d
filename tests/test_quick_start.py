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


def test_what_computes_nothing_does_not_import_torch() -> None:
    phases = ("begin", "depth", "gate", "promote", "report", "frontier", "rollback", "audit")
    script = f"import sys, {', '.join(f'effir.phases.{one}' for one in phases)}, effir.export.card, effir.compress.shapes\n"
    done = subprocess.run([sys.executable, "-c", f"{script}print('torch' in sys.modules)"], capture_output=True, text=True, timeout=120)
    assert done.stdout == "False\n", done.stderr[-2000:]
