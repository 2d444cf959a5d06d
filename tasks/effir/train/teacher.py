"""Teacher scores, raw, for every query with its own positives and hard negatives."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from effir.errors import BadInput, EffirError
from effir.foreign_code import check_adapter, check_pickles
from effir.retrieve import minilm
from effir.train.examples import TrainingSet
from effir.train.losses import group_entropy
from effir.train.ranks import ALONE, Ranks

Scores = dict[str, dict[str, float]]
SCORED = 256


def score(
    training: TrainingSet,
    teacher: str,
    device: str,
    dtype: str = "float32",
    progress: Callable[[int, int], None] | None = None,
    ranks: Ranks = ALONE,
) -> tuple[Scores, int]:
    """(query id → document id → raw score, forward passes), by the scores in the data, the packaged MiniLM, or a cross-encoder by name.

    Cross-encoders give logits (no sigmoid), bi-encoders cosines. Ranks each take some of the batches and all get all scores: the
    batches, and so the scores, do not depend on how many ranks there are. Forward passes are this rank's. Raises BadInput if the
    data holds no scores or the model cannot be had, EffirError if a score is not finite.
    """
    if teacher == "none":
        return {}, 0
    if teacher == "data":
        return _from_data(training), 0
    if teacher == "minilm":
        scores, passes = _bi_encoder(training, device, dtype, progress, ranks)
    else:
        scores, passes = _cross_encoder(training, teacher, device, progress, ranks)
    for query, row in scores.items():
        for document, value in row.items():
            if not math.isfinite(value):
                raise EffirError(f"the teacher {teacher} scored query {query} with document {document} as {value}")
    return scores, passes


def entropies(training: TrainingSet, scores: Scores, temperature: float) -> list[float]:
    """Entropy in nats of the teacher's distribution over each query's first positive and its negatives."""
    found = []
    for example in training.examples:
        if example.query_id in scores and example.negatives:
            row = [scores[example.query_id][document] for document in (example.positives[0], *example.negatives)]
            found.append(float(group_entropy(torch.tensor([row]), temperature)))
    return found


def _from_data(training: TrainingSet) -> Scores:
    scores: Scores = {}
    for example in training.examples:
        if example.positive_scores is None or (example.negatives and example.negative_scores is None):
            raise BadInput(
                f"teacher is data, but training query {example.query_id} has no scores: add pos_scores, neg_scores or name a teacher"
            )
        named = [*example.positives, *example.negatives]
        scores[example.query_id] = dict(zip(named, [*example.positive_scores, *(example.negative_scores or [])], strict=True))
    return scores


def _bi_encoder(
    training: TrainingSet, device: str, dtype: str, progress: Callable[[int, int], None] | None, ranks: Ranks
) -> tuple[Scores, int]:
    model = minilm.load(device, dtype)
    documents = sorted({one for example in training.examples for one in (*example.positives, *example.negatives)})
    texts = [example.query for example in training.examples] + [training.text(one) for one in documents]

    def embed(part: Sequence[str]) -> torch.Tensor:
        return model.encode(list(part), normalize_embeddings=True, convert_to_tensor=True, show_progress_bar=False).float().cpu()

    found, passes = _in_batches(texts, embed, progress, ranks)
    queries, rows = found[: len(training.examples)], dict(zip(documents, found[len(training.examples) :], strict=True))
    scores = {
        example.query_id: {one: float(vector @ rows[one]) for one in (*example.positives, *example.negatives)}
        for example, vector in zip(training.examples, queries, strict=True)
    }
    return scores, passes


def _cross_encoder(
    training: TrainingSet, name: str, device: str, progress: Callable[[int, int], None] | None, ranks: Ranks
) -> tuple[Scores, int]:
    from safetensors import SafetensorError
    from sentence_transformers import CrossEncoder

    if (folder := Path(name).expanduser()).is_dir():
        check_adapter(f"the teacher {name}", folder)
        check_pickles(f"the teacher {name}", folder)
    try:
        model: Any = CrossEncoder(name, device=device, trust_remote_code=False, model_kwargs={"use_safetensors": True})
    except (OSError, ValueError, SafetensorError) as error:
        raise BadInput(
            f"the teacher {name!r} cannot be loaded ({str(error).splitlines()[0]}): give a local folder, or teacher=minilm, data or none"
        ) from None
    pairs = [(example, one) for example in training.examples for one in (*example.positives, *example.negatives)]

    def logits(part: Sequence[tuple[Any, str]]) -> torch.Tensor:
        asked = [(example.query, training.text(one)) for example, one in part]
        return torch.as_tensor(model.predict(asked, activation_fn=torch.nn.Identity(), show_progress_bar=False)).float().view(-1, 1)

    found, passes = _in_batches(pairs, logits, progress, ranks)
    scores: Scores = {}
    for (example, one), (value,) in zip(pairs, found.tolist(), strict=True):
        scores.setdefault(example.query_id, {})[one] = value
    return scores, passes


def _in_batches(
    items: Sequence[Any], model: Callable[[Sequence[Any]], torch.Tensor], progress: Callable[[int, int], None] | None, ranks: Ranks
) -> tuple[torch.Tensor, int]:
    """What the model makes of all items, (n, width), in batches of SCORED; and how many batches this rank took."""
    starts = range(0, len(items), SCORED)
    mine = [starts[index] for index in ranks.share(len(starts))]
    rows = []
    for done, start in enumerate(mine, 1):
        rows.append(model(items[start : start + SCORED]))
        if progress:
            progress(done, len(mine))
    width = ranks.largest(rows[0].shape[1] if rows else 0)
    return ranks.gather(torch.cat([torch.zeros(0, width), *rows]))[0], len(rows)
