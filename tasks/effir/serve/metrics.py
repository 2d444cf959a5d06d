"""What a server counts, in the format of Prometheus."""

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from effir.serve.model import Version

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
SIZES = tuple(2**power for power in range(12))
FORMAT = CONTENT_TYPE_LATEST


class Metrics:
    """One server's, in a registry of its own."""

    def __init__(self) -> None:
        kept = self.registry = CollectorRegistry()
        self._requests = Counter(
            "effir_requests", "Requests for embeddings, by HTTP status and version", ["status", "version"], registry=kept
        )
        self._errors = Counter("effir_errors", "Requests for embeddings that were not answered, by HTTP status", ["status"], registry=kept)
        self._texts = Counter("effir_texts", "Texts that were embedded, by what they are", ["input_type"], registry=kept)
        self._tokens = Counter("effir_tokens", "Tokens that were embedded", registry=kept)
        self._seconds = Histogram("effir_request_seconds", "From a request's arrival to its answer", buckets=SECONDS, registry=kept)
        self._batch = Histogram("effir_batch_texts", "Texts that go through the model together", buckets=SIZES, registry=kept)
        self._model = Gauge("effir_model", "1 for the version that answers now", ["model", "version", "digest"], registry=kept)
        self.queue = Gauge("effir_queue_texts", "Texts that are accepted and not answered", registry=kept)
        self.swaps = Counter("effir_swaps", "New versions that took over", registry=kept)
        self.refused = Gauge("effir_champion_refused", "1 while the champion is refused and an older version answers", registry=kept)
        self.unreachable = Gauge("effir_registry_unreachable", "1 while the registry could not be asked the last time", registry=kept)

    def answered(self, kind: str, texts: int, tokens: int) -> None:
        """So many texts were embedded."""
        self._texts.labels(kind).inc(texts)
        self._tokens.inc(tokens)

    def ended(self, status: int, version: Version, seconds: float) -> None:
        """A request is over."""
        self._requests.labels(status, version.version).inc()
        if status >= 400:
            self._errors.labels(status).inc()
        self._seconds.observe(seconds)

    def batch(self, texts: int) -> None:
        """So many texts go through the model."""
        self._batch.observe(texts)

    def serving(self, version: Version) -> None:
        """This version answers from now on."""
        self._model.clear()
        self._model.labels(version.name, version.version, version.digest or "").set(1)

    def text(self) -> bytes:
        """All of it."""
        return generate_latest(self.registry)
