import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from effir.train.ranks import ALONE, Ranks

RANKS = (0, 1, 2)


class Found:
    """What each rank left behind: `1-0` is the process alone."""

    def __init__(self, folder: Path) -> None:
        names = ["1-0", *(f"3-{rank}" for rank in RANKS)]
        self.told = {name: json.loads((folder / f"first-{name}.json").read_text()) for name in names}
        self.tensors = {
            name: load_file(folder / f"first-{name}.safetensors") | load_file(folder / f"second-{name}.safetensors") for name in names
        }

    def of(self, name: str, prefix: str) -> dict[str, torch.Tensor]:
        return {key.removeprefix(f"{prefix}."): value for key, value in self.tensors[name].items() if key.startswith(f"{prefix}.")}

    def differs(self, name: str, prefix: str, expected: str) -> float:
        """Largest relative difference of a tensor from that of one process."""
        one, other = self.of("1-0", expected), self.of(name, prefix)
        assert one.keys() == other.keys() and one
        return max(float((one[key] - other[key]).norm() / one[key].norm()) for key in one)


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Found:
    """The same work by one process and by three."""
    folder = tmp_path_factory.mktemp("ranks")
    command = [sys.executable, str(Path(__file__).with_name("sharing.py")), str(folder)]
    done = subprocess.run(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stderr
    return Found(folder)


def test_shares_are_contiguous_whole_and_even() -> None:
    for total in range(12):
        for count in range(1, 6):
            shares = [Ranks(rank, count).share(total) for rank in range(count)]
            assert [one for share in shares for one in share] == list(range(total))
            assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_a_process_alone_gets_back_what_it_gave() -> None:
    rows = torch.arange(6.0).view(3, 2)
    whole, own = ALONE.gather(rows)
    assert whole is rows and own == slice(0, 3)
    assert (ALONE.any(False), ALONE.any(True), ALONE.total(7), ALONE.largest(7)) == (False, True, 7, 7)
    state = torch.get_rng_state()
    ALONE.seed(1, 2)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("name", ["1-0", "3-0", "3-1", "3-2"])
def test_the_gradient_is_that_of_one_process_without_caching(found: Found, name: str) -> None:
    """Hard negatives, KL, regression and ranking in the loss; micro-batches of the whole share and of 2; float64."""
    for micro_batch in (0, 2):
        assert found.differs(name, f"gradient-{micro_batch}", "gradient-0") < 1e-12
        figures = found.told[name][f"figures-{micro_batch}"]
        assert figures == pytest.approx(found.told["1-0"]["figures-0"], rel=1e-9)
        assert {"info_nce", "kl", "regression", "ranking"} <= figures.keys()


def test_each_rank_prepares_its_share_alone(found: Found) -> None:
    told = [found.told[f"3-{rank}"] for rank in RANKS]
    assert all(one["texts"] < found.told["1-0"]["texts"] for one in told)
    assert {one["tokens"] for one in told} == {found.told["1-0"]["tokens"]}


@pytest.mark.parametrize("rank", RANKS)
def test_the_final_weights_are_those_of_one_process(found: Found, rank: int) -> None:
    name = f"3-{rank}"
    assert found.differs(name, "final", "final") < 1e-10
    assert all(torch.equal(value, found.of("3-0", "final")[key]) for key, value in found.of(name, "final").items())
    for mine, alone in zip(found.told[name]["history"], found.told["1-0"]["history"], strict=True):
        assert mine == pytest.approx(alone, rel=1e-8)


@pytest.mark.parametrize("rank", RANKS)
def test_one_rank_asks_and_all_stop_at_the_same_step(found: Found, rank: int) -> None:
    assert found.told[f"3-{rank}"]["stopped"] == "stopped on request after step 2 of 4; a retry goes on from there"


@pytest.mark.parametrize(("before", "after"), [(1, 1), (1, 3), (3, 1), (3, 3)])
def test_a_checkpoint_resumes_with_another_number_of_processes_and_another_micro_batch(found: Found, before: int, after: int) -> None:
    assert found.differs(f"{after}-{after - 1}", f"resumed-from-{before}", "final") < 1e-10


@pytest.mark.parametrize("name", ["1-0", "3-0", "3-1", "3-2"])
def test_with_dropout_a_resumed_training_is_bit_equal_for_the_same_number_of_processes(found: Found, name: str) -> None:
    whole, again, without = (found.of(name, prefix) for prefix in ("dropout", "dropout-again", "final"))
    assert all(torch.equal(value, again[key]) for key, value in whole.items())
    assert not any(torch.equal(value, without[key]) for key, value in whole.items())


def test_ranks_throw_different_dice(found: Found) -> None:
    assert len({tuple(found.tensors[f"3-{rank}"]["dice"].tolist()) for rank in RANKS}) == 3


@pytest.mark.parametrize("rank", RANKS)
def test_a_teacher_scores_the_same_whoever_scores(found: Found, rank: int) -> None:
    for size, batches in ((10, 1), (200, 2)):
        assert found.told[f"3-{rank}"][f"scores-{size}"] == found.told["1-0"][f"scores-{size}"]
        assert sum(found.told[f"3-{one}"][f"passes-{size}"] for one in RANKS) == batches


@pytest.mark.parametrize("rank", RANKS)
def test_a_difference_in_the_last_bit_is_noticed_on_every_rank(found: Found, rank: int) -> None:
    assert found.told[f"3-{rank}"]["drift"].startswith("the 3 processes no longer have the same parameters after 6 steps")


@pytest.mark.parametrize("rank", [0, 1])
def test_who_is_left_behind_says_so(found: Found, rank: int) -> None:
    assert found.told[f"3-{rank}"]["lost"] == "another process of this phase is gone; a retry goes on from the last checkpoint"
