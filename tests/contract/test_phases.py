"""The phases against the table in docs/architecture.md and the DAG."""

import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

from effir.phases.execute import PHASES
from effir.spec import RunSpec

ROOT = Path(__file__).parents[2]
HEAVY = {"torch", "transformers", "mlflow", "sentence_transformers", "matplotlib", "faiss", "beir", "pyarrow", "scipy"}


def documented() -> dict[str, str]:
    """Phase → FRESH, SHARES or nothing, as docs/architecture.md lists them."""
    text = (ROOT / "docs" / "architecture.md").read_text()
    return dict(re.findall(r"^\| `(\w+)` ?(FRESH|SHARES|) \|", text.partition("## The phases")[2].partition("## Layouts")[0], re.MULTILINE))


def test_the_page_lists_every_phase_in_order() -> None:
    assert tuple(documented()) == PHASES


@pytest.mark.parametrize("name", PHASES)
def test_a_phase_says_what_decides_its_result(name: str) -> None:
    module = importlib.import_module(f"effir.phases.{name}")
    assert set(module.FIELDS) <= set(RunSpec.model_fields)
    assert [mark for mark in ("FRESH", "SHARES") if getattr(module, mark, False)] == documented()[name].split()
    assert module.__doc__ and module.run.__doc__


def test_finished_work_is_found_without_heavy_libraries() -> None:
    names = [name for name in PHASES if documented()[name] != "FRESH"]
    code = f"import sys; [__import__('effir.phases.' + name) for name in {names}]; import effir.phases.execute; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not HEAVY & {module.partition(".")[0] for module in done.stdout.split()}
