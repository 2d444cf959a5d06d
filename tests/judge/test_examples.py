import numpy as np

from effir.judge.examples import largest
from effir.judge.headline import gains, headline
from effir.judge.quality import Scores


def scores(**values: float) -> Scores:
    return Scores(tuple(values), tuple(values), np.array(list(values.values())))


def test_the_largest_differences_come_first_whatever_the_order() -> None:
    before = scores(a=0.5, b=0.5, c=0.5, d=0.5, e=0.0)
    after = scores(e=0.0, d=0.7, c=0.1, b=1.0, a=0.4, other=1.0)
    found = largest(before, after, 2)
    assert [(one.query, one.before, one.after) for one in found["wins"]] == [("b", 0.5, 1.0), ("d", 0.5, 0.7)]
    assert [one.query for one in found["losses"]] == ["c", "a"]
    assert [one.query for one in largest(before, after, 1)["losses"]] == ["c"]


SUMMARY = {
    "verdict": "rejected", "model": {"name": "tiny", "version": "3"}, "reasons": ["too slow"], "quality": {"a": {}, "b": {}},
    "params": {"candidate_non_embedding": 75, "reference_non_embedding": 100}, "speedup": {"query": 1.2, "document": 1.345},
    "mean": {"difference": -0.0123, "interval": [-0.034, 0.01]},
}  # fmt: skip


def test_a_run_in_a_sentence() -> None:
    assert headline(SUMMARY) == (
        "Rejected, tiny version 3: 25% fewer parameters outside the embeddings, queries 1.20× and documents 1.34× as fast as the full-size "
        "reference, nDCG@10 -1.2 points on the mean of 2 collections (95% interval -3.4 to +1.0)"
    )
    assert "on a (" in gains(SUMMARY | {"quality": {"a": {}}})
    assert gains(SUMMARY | {"mean": None, "quality": {}}).endswith("as fast as the full-size reference")
