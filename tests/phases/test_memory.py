import errno
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from effir.errors import BadInput, OutOfMemory
from effir.phases import memory
from effir.phases.job import Job
from effir.spec import RunSpec
from effir.train.ranks import ALONE, Ranks

REFERENCE = {"model": "reference"}


def job(tmp_path: Path, halvings: int = 0, ranks: Ranks = ALONE, **spec) -> Job:
    return Job("finetune", "0", RunSpec(**spec), {}, {}, {}, None, tmp_path, tmp_path, ranks=ranks, halvings=halvings)


@pytest.mark.parametrize("ask", [lambda: torch.empty(1 << 50), lambda: bytearray(1 << 60), lambda: np.empty(1 << 50)])
def test_real_errors_are_recognised(ask: Callable[[], object]) -> None:
    with pytest.raises((MemoryError, RuntimeError)) as caught:
        ask()
    assert memory.ran_out(caught.value)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="NO CUDA DEVICE HERE: nothing is tested on a GPU")
def test_the_real_error_of_a_gpu_is_recognised() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 50, device="cuda")
    assert memory.ran_out(caught.value)


@pytest.mark.parametrize(
    ("error", "is_one"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), True),
        (RuntimeError("The size of tensor a (3) must match the size of tensor b (4)"), False),
        (OSError(errno.ENOSPC, "No space left on device"), False),
    ],
)
def test_words_for_it(error: Exception, is_one: bool) -> None:
    assert memory.ran_out(error) is is_one


@pytest.mark.parametrize(
    ("micro_batch", "count", "halvings", "held"),
    [
        (0, 1, 0, 16),
        (0, 1, 1, 8),
        (0, 1, 9, 1),
        (5, 1, 0, 5),
        (5, 1, 1, 2),
        (64, 1, 0, 16),
        (64, 1, 1, 8),
        (0, 3, 0, 6),
        (0, 3, 1, 3),
        (4, 3, 1, 2),
    ],
)
def test_each_halving_halves_what_is_held(tmp_path: Path, micro_batch: int, count: int, halvings: int, held: int) -> None:
    one = job(tmp_path, halvings, Ranks(0, count), micro_batch=micro_batch)
    assert memory.hold(one, 16) == one.held == held


def test_more_processes_than_queries(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="finetune has 2 queries a step, too few for 3 processes"):
        memory.hold(job(tmp_path, 0, Ranks(0, 3)), 2)


def test_the_sentence_says_what_happens_now(tmp_path: Path) -> None:
    one = job(tmp_path)
    assert "lower batch_tokens or give the phase more memory" in str(memory.sentence(one))
    memory.hold(one, 9)
    assert isinstance(memory.sentence(one), OutOfMemory)
    assert "with 9 queries in it at once; a retry holds 4" in str(memory.sentence(one))
    one.halvings = 4
    memory.hold(one, 9)
    assert isinstance(memory.sentence(one), BadInput)
    assert "with a single query in it: lower hard_negatives or max_training_tokens" in str(memory.sentence(one))


def differ(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    assert one.keys() == other.keys()
    return max(float((value - other[name]).norm() / value.norm()) for name, value in one.items())


def test_what_is_held_does_not_change_the_weights(chain, tmp_path: Path) -> None:
    one = chain(lora_dropout=0.0, batch=9, hard_negatives=2, learning_rate=1e-3, slim_steps=0, keep_ratio=1.0, variant="full")
    one.cut()
    found = []
    for halvings in range(3):
        one.run("finetune", one.lesson(), REFERENCE, "reference", halvings=halvings)
        found.append(load_file(one.file("reference", "model/model.safetensors", tmp_path / str(halvings))))
        one.forget("reference")
    assert 0 < differ(found[0], found[1]) < 1e-5
    assert 0 < differ(found[0], found[2]) < 1e-5


def test_memory_runs_out_for_real_and_half_of_half_of_half_fits(chain, tiny, forked, tmp_path: Path) -> None:
    """A process whose memory is limited by the kernel: some 800 MB of activations and room for 400 MB."""
    one = chain(
        base_model=str(tiny.write_model(tmp_path / "wide", width=256)), lora_dropout=0.0, batch=50, hard_negatives=4, reference_steps=2,
        steps=0, slim_steps=0, keep_ratio=1.0, variant="full", batch_tokens=1024,
    )  # fmt: skip
    one.cut()
    one.run("finetune", one.lesson(), REFERENCE, "reference")
    expected = load_file(one.file("reference", "model/model.safetensors", tmp_path / "whole"))
    one.forget("reference")
    commands = [one.command("finetune", one.lesson(), REFERENCE, f"held-{halvings}", halvings=halvings) for halvings in (0, 3)]
    found = forked([(command, 1, 400 << 20) for command in commands])
    assert found.codes == [[76], [0]], found.said
    assert found.words[0][0].startswith("finetune ran out of memory with 50 queries in it at once; a retry holds 25")
    assert differ(expected, load_file(one.file("reference", "model/model.safetensors", tmp_path / "held"))) < 1e-5
