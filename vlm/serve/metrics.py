"""What the server tells Prometheus: numbers, and nothing of a question, image or answer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import perf_counter

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)
SHARES = tuple(number / 10 for number in range(1, 11))


class Metrics:
    """The server's numbers, in a registry of their own."""

    def __init__(self, waiting: Callable[[], int]) -> None:
        self.registry = own = CollectorRegistry()
        self.requests = Counter(
            "vlm_requests", "Requests by route and status.", ["route", "status"], registry=own
        )
        self._stages = Histogram(
            "vlm_stage_seconds",
            "Seconds of a request: receive (its body), read (its image), queue, model, total.",
            ["stage"],
            buckets=SECONDS,
            registry=own,
        )
        Gauge("vlm_queue_questions", "Questions that wait.", registry=own).set_function(waiting)
        self.batches = Histogram(
            "vlm_batch_questions",
            "Questions of a batch.",
            buckets=tuple(2**power for power in range(9)),
            registry=own,
        )
        self.images = Counter(
            "vlm_images", "Images by where their features came from.", ["source"], registry=own
        )
        self.abstentions = Counter(
            "vlm_abstentions",
            "Questions without an answer: beyond the model, or the risk above the accepted one.",
            registry=own,
        )
        self.confidence = Histogram(
            "vlm_confidence", "Probability of given answers.", buckets=SHARES, registry=own
        )

    def took(self, stage: str, seconds: float) -> None:
        """Note how long a stage took."""
        self._stages.labels(stage).observe(seconds)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Note how long the block takes."""
        start = perf_counter()
        try:
            yield
        finally:
            self.took(name, perf_counter() - start)

    def page(self) -> bytes:
        """All of them, in Prometheus's text format."""
        return generate_latest(self.registry)
