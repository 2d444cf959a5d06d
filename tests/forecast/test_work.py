"""What the tasks of a run have to do, against counts by hand."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from effir.compress import shapes
from effir.forecast import flops, judging
from effir.forecast.texts import Texts
from effir.forecast.volume import Volume, _sampled
from effir.forecast.work import Work

Small = Callable[..., Volume]


def by_name(volume: Volume, devices: int = 1) -> dict[str, Work]:
    return {one.name: one for one in judging.tasks(volume, devices)}


def grown(volume: Volume, times: int) -> Volume:
    """The same texts, so many times as often."""
    more = tuple(replace(one, documents=replace(one.documents, count=times * one.documents.count)) for one in volume.collections)
    return replace(volume, collections=more)


def asked(volume: Volume) -> Texts:
    """The first 12 queries, which have an answer."""
    queries = volume.collections[0].queries
    return replace(queries, lengths=queries.lengths[:12])


def test_the_tasks_are_those_of_the_dag(small: Small) -> None:
    """50 documents in shards of 20, for four models; every task waits for tasks that are there, and none for a later one."""
    found = judging.tasks(small(), 1)
    names = [one.name for one in found]
    assert [name for name in names if name.startswith("encode base")] == [f"encode base test {shard}" for shard in range(3)]
    assert len(names) == len(set(names)) == 15 + 4 * 3
    for number, one in enumerate(found):
        assert set(one.after) <= set(names[:number]), one.name


def test_tokens_and_operations_of_encoding_by_hand(small: Small) -> None:
    """The query without a relevant document is not encoded."""
    volume = small(max_document_tokens=32)
    lengths = volume.documents(volume.collections[0]).tolist()
    queries = volume.queries(volume.collections[0])[:12].tolist()
    volume = replace(volume, collections=(replace(volume.collections[0], queries=asked(volume)),))
    found = by_name(volume)
    shards = [found[f"encode reference test {shard}"] for shard in range(3)]
    assert sum(one.tokens for one in shards) == pytest.approx(sum(lengths) + sum(queries))
    assert sum(one.encode for one in shards) == pytest.approx(
        shapes.flops(volume.whole.shape, lengths) + shapes.flops(volume.whole.shape, queries), rel=1e-3
    )
    assert max(lengths) == 32
    assert sum(one.stored for one in shards) == (50 + 12) * (2 * 576 + judging.ID)


def test_the_candidate_has_fewer_layers_and_neurons(small: Small) -> None:
    found = by_name(small())
    volume = small()
    assert [len(one.shape.layers) for one in (volume.whole, volume.shallow, volume.cut)] == [30, 26, 26]
    assert volume.cut.shape.layers[0].neurons < volume.shallow.shape.layers[0].neurons == 1536
    assert found["encode candidate test 1"].encode < 26 / 30 * found["encode base test 1"].encode
    assert found["finetune candidate"].stored < found["finetune reference"].stored


def test_ten_times_the_corpus_is_ten_times_the_encoding_and_the_bytes(small: Small) -> None:
    once, tenfold = (by_name(grown(small(), times)) for times in (1, 10))

    def total(found: dict[str, Work], field: str) -> float:
        return sum(getattr(one, field) for one in found.values() if one.name.startswith("encode reference"))

    queries = (12 / 62) * total(once, "stored")
    assert total(tenfold, "stored") - queries == pytest.approx(10 * (total(once, "stored") - queries))
    volume = small()
    asked = flops.encoding(volume.whole.shape, volume.queries(volume.collections[0]).tolist(), 12)
    assert total(tenfold, "encode") - asked == pytest.approx(10 * (total(once, "encode") - asked))
    assert sum(name.startswith("encode reference") for name in tenfold) == 25
    assert tenfold["finetune reference"] == once["finetune reference"]


def test_a_shard_reads_its_documents_and_the_whole_model(small: Small) -> None:
    volume = small(shard_documents=10)
    one = by_name(volume)["encode base test 1"]
    assert one.read == pytest.approx(volume.weights(volume.whole) + 10 * (volume.collections[0].documents.characters + 60))
    assert volume.weights(volume.whole) == pytest.approx(272_583_267, rel=0.001), "the packaged model as it was stored"


def test_training_sees_every_text_of_every_batch(small: Small) -> None:
    """10 steps of 8 queries with two documents each."""
    volume = small()
    found = by_name(volume)["finetune reference"]
    mean = volume.documents(volume.training, 48).mean() * 2 + volume.queries(volume.training).mean()
    assert found.tokens == pytest.approx(10 * 8 * mean)
    assert by_name(small(steps=20, reference_steps=20))["finetune reference"].train == pytest.approx(2 * found.train)
    assert by_name(small(hard_negatives=3))["finetune reference"].train > 1.8 * found.train
    saved = 2 * flops.adapters(volume.whole, 32) * 12
    assert found.written == volume.weights(volume.whole) + saved, "checkpoints after 4 and 8 steps"


def test_the_candidate_alone_is_healed_towards_the_reference(small: Small) -> None:
    """Every text that its training meets is encoded once: 12 queries and 24 documents, for there are no more."""
    found, volume = by_name(small()), small()
    wanted = flops.encoding(volume.whole.shape, volume.queries(volume.training).tolist(), 12)
    wanted += flops.encoding(volume.whole.shape, volume.documents(volume.training, 48).tolist(), 24)
    assert found["finetune candidate"].encode == pytest.approx(wanted)
    assert found["finetune reference"].encode == 0
    assert by_name(small(regression_weight=0.0))["finetune candidate"].encode == 0


def test_several_devices_need_no_caching_of_gradients(small: Small) -> None:
    """Eight queries in micro-batches of two: cached on one device, not on four."""
    alone, four, plain = (by_name(small(micro_batch=size), devices)["finetune reference"] for size, devices in ((2, 1), (2, 4), (0, 1)))
    assert four.train == plain.train < alone.train
    assert alone.memory == four.memory < plain.memory


def test_what_a_recipe_leaves_out_takes_nothing(small: Small) -> None:
    found = by_name(small(keep_ratio=1.0, importance_measure="random", teacher="none", steps=0, reference_steps=0))
    assert (found["slim"].heavy, found["slim"].train) == (False, 0)
    assert (found["importance"].encode, found["importance"].devices) == (0, 0)
    assert (found["teacher"].outside, found["teacher"].heavy) == (0, False)
    assert found["finetune reference"].train == 0


def test_other_measures_and_teachers_have_their_own_price(small: Small) -> None:
    found = by_name(small(importance_measure="leave_one_out", neuron_score="activation_norm", teacher="BAAI/bge-reranker-v2-m3"))
    turns = by_name(small(importance_measure="in_turn"))["importance"]
    probing = by_name(small(importance_measure="taylor", neuron_score="taylor"))
    assert probing["importance"].train > probing["importance"].encode == found["importance"].train == turns.train == 0
    assert turns.encode / found["importance"].encode == pytest.approx((61 + 4 * 59 / 2) / 91)
    assert found["slim"].encode == pytest.approx(26 / 30 * by_name(small())["importance"].encode, rel=0.01)
    assert probing["slim"].train < probing["importance"].train
    assert (found["teacher"].float32 > 0, found["teacher"].devices) == (True, -1)


def test_the_reference_s_sub_layers_are_scored_once_there_is_one(small: Small) -> None:
    assert by_name(small())["importance"].after == ("prepare",)
    assert by_name(small(importance_of="reference"))["importance"].after == ("finetune reference",)


def test_a_target_chooses_the_cut(small: Small) -> None:
    volume = small(variant="full", keep_ratio=1.0, target_speedup=1.5)
    assert volume.shallow == volume.whole
    assert shapes.flops(volume.whole.shape, [64]) / shapes.flops(volume.cut.shape, [64]) >= 1.5
    assert by_name(volume)["narrow"].encode > 0


def test_search_costs_what_queries_times_documents_times_width_say(small: Small) -> None:
    volume = small()
    assert by_name(volume)["evaluate"].processor == 2 * 12 * 50 * (3 * 576 + 384)
    assert by_name(grown(volume, 10))["evaluate"].processor == 10 * by_name(volume)["evaluate"].processor


def test_settings_that_shrink_the_test_count(small: Small) -> None:
    volume = small(test_documents=20, test_queries=10)
    assert (volume.collections[0].documents.count, volume.collections[0].queries.count) == (20, 10)
    assert sum(name.startswith("encode") for name in by_name(volume)) == 4


def test_judged_documents_stay_in_a_sample(small: Small) -> None:
    """Fifty of 100 queries with 20 relevant documents each, drawn from 1,000: more differ than are asked for."""
    one = small().collections[0]
    many = replace(one, documents=replace(one.documents, count=1000), queries=replace(one.queries, count=100), pairs=2000)
    dice = np.random.default_rng(0)
    drawn = np.mean([len(np.unique(dice.integers(0, 1000, 1000))) for _ in range(50)])
    for asked, kept in ((100, drawn), (900, 900)):
        found = _sampled(many, small(test_documents=asked, test_queries=50).spec)
        assert found.documents.count == pytest.approx(kept, rel=0.01)
    assert _sampled(many, small().spec).documents.count == 1000


def test_healing_is_trained_and_its_model_stored(small: Small) -> None:
    plain, healed = (by_name(small(**more))["slim"] for more in ({}, {"heal_steps": 6}))
    slimmed = by_name(small(slim_steps=6))["slim"]
    assert healed.train - plain.train > (slimmed.train - plain.train) > 0
    assert healed.stored > 1e8 and plain.stored == 0
