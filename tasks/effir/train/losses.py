"""The losses that no library combines: InfoNCE with masked in-batch negatives, KL from a teacher or a reference, and regression."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F


@dataclass
class Batch:
    """What the losses need to know besides the vectors; q queries with documents laid out group by group.

    own:     (q, g) long: columns of each query's own group in the document matrix, its positive first
    blocked: (q, n) bool: documents that are relevant to the query or equal to its positive, and so no negatives
    teacher: (q, g) float32 raw teacher scores, or None
    query_target, document_target: (q, d), (n, d) float32 unit vectors of the reference, or None
    """

    own: torch.Tensor
    blocked: torch.Tensor
    teacher: torch.Tensor | None = None
    query_target: torch.Tensor | None = None
    document_target: torch.Tensor | None = None


@dataclass(frozen=True)
class Weights:
    """temperature: of InfoNCE and of the student in KL; teacher_temperature: of the teacher; the rest weigh the terms."""

    temperature: float = 0.02
    teacher_temperature: float = 1.0
    kl: float = 0.0
    regression: float = 0.0
    ranking: float = 0.0


def total(queries: torch.Tensor, documents: torch.Tensor, batch: Batch, weights: Weights) -> tuple[torch.Tensor, dict[str, float]]:
    """The training loss and its parts.

    queries (q, d) and documents (n, d) are unit vectors, float32 or float64. In-batch accuracy is the share of queries whose positive
    scores highest among everything not blocked.
    """
    similarity = queries @ documents.T
    loss = info_nce(similarity, batch, weights.temperature)
    parts = {"info_nce": loss.item(), "accuracy": accuracy(similarity, batch)}
    if weights.kl and batch.teacher is not None:
        kl = distillation(similarity, batch.own, batch.teacher, weights)
        parts["kl"] = kl.item()
        loss = loss + weights.kl * kl
    if weights.regression and batch.query_target is not None and batch.document_target is not None:
        distance = regression(queries, batch.query_target) + regression(documents, batch.document_target)
        parts["regression"] = distance.item()
        loss = loss + weights.regression * distance
    if weights.ranking and batch.query_target is not None and batch.document_target is not None:
        order = ranking(similarity, batch.query_target @ batch.document_target.T, weights.temperature)
        parts["ranking"] = order.item()
        loss = loss + weights.ranking * order
    return loss, parts | {"loss": loss.item()}


def info_nce(similarity: torch.Tensor, batch: Batch, temperature: float) -> torch.Tensor:
    """Eq. 2 with every document of the batch as a negative, except those blocked. similarity: (q, n) → scalar."""
    return F.cross_entropy(masked(similarity, batch) / temperature, batch.own[:, 0])


def accuracy(similarity: torch.Tensor, batch: Batch) -> float:
    """Share of queries whose positive ranks first."""
    return (masked(similarity, batch).argmax(1) == batch.own[:, 0]).double().mean().item()


def masked(similarity: torch.Tensor, batch: Batch) -> torch.Tensor:
    """Similarities with blocked documents at minus infinity; a query's own positive is never blocked."""
    blocked = batch.blocked.scatter(1, batch.own[:, :1], False)
    return similarity.masked_fill(blocked, float("-inf"))


def distillation(similarity: torch.Tensor, own: torch.Tensor, teacher: torch.Tensor, weights: Weights) -> torch.Tensor:
    """KL(teacher || student) over each query's own group; no T² factor. similarity (q, n), own and teacher (q, g) → scalar."""
    return _divergence(similarity.gather(1, own) / weights.temperature, teacher.to(similarity.dtype) / weights.teacher_temperature)


def regression(vectors: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Mean squared distance of unit vectors: 2 - 2 cos. (n, d), (n, d) → scalar."""
    return (vectors - target.to(vectors.dtype)).pow(2).sum(1).mean()


def ranking(similarity: torch.Tensor, target: torch.Tensor, temperature: float) -> torch.Tensor:
    """KL(reference || student) over all documents of the batch, both at one temperature. (q, n), (q, n) → scalar.

    What the reference thinks of every document, relevant or not: nothing is blocked.
    """
    return _divergence(similarity / temperature, target.to(similarity.dtype) / temperature)


def _divergence(student: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """KL(softmax of the target || softmax of the student), mean over rows. (q, n), (q, n) → scalar."""
    return F.kl_div(F.log_softmax(student, dim=1), F.log_softmax(target, dim=1), reduction="batchmean", log_target=True)


def group_entropy(teacher: torch.Tensor, temperature: float) -> torch.Tensor:
    """Entropy of each group's teacher distribution in nats: (q, g) → (q,). Near 0 everywhere, KL only repeats InfoNCE."""
    probabilities = F.softmax(teacher.double() / temperature, dim=1)
    return -(probabilities * probabilities.clamp_min(1e-300).log()).sum(1)
