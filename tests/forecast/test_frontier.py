from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from effir.arms import arms
from effir.errors import BadInput
from effir.forecast import frontier, judging, making
from effir.forecast.hardware import CPU2, NAMED
from effir.forecast.volume import Volume
from effir.phases.arms import shared
from effir.studies import find
from effir.studying import sizes

Small = Callable[..., Volume]


def parts(volume: Volume, variants: str, seeds: str = "0") -> dict[str, Any]:
    return shared(volume.spec, arms(volume.spec, variants, seeds))


def test_what_arms_share_is_done_once(small: Small) -> None:
    volume = small()
    names = [one.name for one in frontier.works(parts(volume, "8M,8A,8M:teacher=none,8M:cut=reference:steps=0", "0,1"), volume, 1)]
    counted = {kind: sum(name.split()[0] == kind for name in names) for kind in ("prepare", "teacher", "reference", "scores", "assess")}
    assert counted == {"prepare": 1, "teacher": 2, "reference": 4, "scores": 4, "assess": 8}
    assert len(set(names)) == len(names)


def test_everything_waits_for_something_that_is_there(small: Small) -> None:
    volume = small()
    done: set[str] = set()
    for one in frontier.works(parts(volume, "8M:importance_of=reference,8M:weights=nf4"), volume, 1):
        assert set(one.after) <= done, one.name
        done.add(one.name)


def test_a_sibling_is_prepared_trained_and_assessed_at_its_own_size(small: Small) -> None:
    volume = small()
    found = {one.name: one for one in frontier.works(parts(volume, "full,full:base_model=qwen2.5-1.5b"), volume, 1)}
    trained = [one for one in found.values() if one.after and one.after[0].startswith("narrow")]
    assert "base 1" in found and "base 2" not in found
    assert trained[1].train > 5 * trained[0].train
    assert found["assess 1"].encode > 5 * found["assess 0"].encode
    assert "base 1" in found["scores 1"].after


def test_an_assessment_encodes_what_encode_does_and_is_timed_like_speed(small: Small) -> None:
    volume = small()
    encoded = [one for one in judging.tasks(volume, 1) if one.name.startswith("encode candidate")]
    plain, timed = frontier.assess(volume, "candidate"), frontier.assess(volume, "candidate", timed=True)
    assert plain.encode == pytest.approx(sum(one.encode for one in encoded))
    assert plain.seconds == 0 and timed.seconds == judging.speed(volume).seconds
    assert frontier.assess(volume, "reference").encode > plain.encode
    assert frontier.assess(volume, "bm25").encode == frontier.assess(volume, "minilm").encode == 0


def test_another_arm_takes_what_its_own_tasks_take(small: Small) -> None:
    """On one processor, where tasks wait for each other."""
    volume = small()
    one, two = (frontier.wall(parts(volume, variants), volume, CPU2) for variants in ("8A", "8A,8A:learning_rate=0.001"))
    mine = frontier._of(volume, arms(volume.spec, "8A", "0")[0].spec)
    trained = making.finetune(mine, "candidate", 1)
    assert two - one > (trained.train + frontier.assess(mine, "candidate").encode) / CPU2.encode
    assert frontier.wall(parts(volume, "8A"), volume, NAMED["h100x1"]) > 0


def test_a_study_says_its_size(small: Small, tmp_path: Path) -> None:
    given = {name: getattr(small().spec, name) for name in ("training_data", "collections")}
    lines = list(sizes(find("layer-sensitivity"), "smollm2-small", given, "0,1"))
    assert [line.partition(":")[0] for line in lines] == ["smollm2-small on cpu2", "smollm2-small on h100x1", "mistral-7b-paper on h100x8"]
    assert all("12 arms, about " in line for line in lines)


def test_data_that_are_not_there_are_said(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="nowhere"):
        list(sizes(find("layer-sensitivity"), "smollm2-small", {"training_data": str(tmp_path / "nowhere")}, "0"))
