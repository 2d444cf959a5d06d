"""Teacher scores, raw, for every query with its own positives and hard negatives."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch

from effir.errors import BadInput, EffirError
from effir.retrieve import minilm
from effir.train.examples import TrainingSet
from effir.train.losses import group_entropy

Scores = dict[str, dict[str, float]]
SCORED = 256


def score(
    training: TrainingSet, teacher: str, device: str, dtype: str = "float32", progress: Callable[[int, int], None] | None = None
) -> tuple[Scores, int]:
    """(query id → document id → raw score, forward passes), by the scores in the data, the packaged MiniLM, or a cross-encoder by name.

    Cross-encoders give logits (no sigmoid), bi-encoders cosines. Raises BadInput if the data holds no scores or the model cannot be had,
    EffirError if a score is not finite.
    """
    if teacher == "none":
        return {}, 0
    if teacher == "data":
        return _from_data(training), 0
    scores, passes = (
        _bi_encoder(training, device, dtype, progress) if teacher == "minilm" else _cross_encoder(training, teacher, device, progress)
    )
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


def _bi_encoder(training: TrainingSet, device: str, dtype: str, progress: Callable[[int, int], None] | None) -> tuple[Scores, int]:
    model = minilm.load(device, dtype)
    documents = sorted({one for example in training.examples for one in (*example.positives, *example.negatives)})
    texts = [example.query for example in training.examples] + [training.text(one) for one in documents]
    vectors = []
    for start in range(0, len(texts), SCORED):
        vectors.append(
            model.encode(texts[start : start + SCORED], normalize_embeddings=True, convert_to_tensor=True, show_progress_bar=False)
        )
        if progress:
            progress(min(start + SCORED, len(texts)), len(texts))
    found = torch.cat(vectors).float().cpu()
    queries, rows = found[: len(training.examples)], dict(zip(documents, found[len(training.examples) :], strict=True))
    scores = {
        example.query_id: {one: float(vector @ rows[one]) for one in (*example.positives, *example.negatives)}
        for example, vector in zip(training.examples, queries, strict=True)
    }
    return scores, len(vectors)


def _cross_encoder(training: TrainingSet, name: str, device: str, progress: Callable[[int, int], None] | None) -> tuple[Scores, int]:
    from sentence_transformers import CrossEncoder

    try:
        model: Any = CrossEncoder(name, device=device)
    except (OSError, ValueError) as error:
        raise BadInput(
            f"the teacher {name!r} cannot be loaded ({str(error).splitlines()[0]}): give a local folder, or teacher=minilm, data or none"
        ) from None
    pairs = [(example, one) for example in training.examples for one in (*example.positives, *example.negatives)]
    scores: Scores = {}
    passes = 0
    for start in range(0, len(pairs), SCORED):
        part = pairs[start : start + SCORED]
        values = _logits(model, [(example.query, training.text(one)) for example, one in part])
        for (example, one), value in zip(part, values, strict=True):
            scores.setdefault(example.query_id, {})[one] = float(value)
        passes += 1
        if progress:
            progress(start + len(part), len(pairs))
    return scores, passes


def _logits(model: Any, pairs: Sequence[tuple[str, str]]) -> Any:
    return model.predict(list(pairs), activation_fn=torch.nn.Identity(), show_progress_bar=False)
