"""What a retrieval service counts, for Prometheus."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)


class Meters:
    """The counters of one service, in a registry of its own."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "aster_retrieval_requests", "Requests by wire form and status.", ["form", "status"], registry=self._registry
        )
        self._seconds = Histogram(
            "aster_retrieval_seconds",
            "Seconds from a request's arrival to its answer.",
            ["form"],
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._queries = Counter(
            "aster_retrieval_queries",
            "Queries by where their answer came from: the cache, a search that was under way, a search of their own.",
            ["answered"],
            registry=self._registry,
        )
        self._batch = Histogram(
            "aster_retrieval_batch_size", "Queries in a search.", buckets=_SIZES, registry=self._registry
        )
        self._depth = Gauge("aster_retrieval_queue_depth", "Queries that wait.", registry=self._registry)

    def watch(self, depth: Callable[[], float]) -> None:
        """Read the queue's depth from ``depth``."""
        self._depth.set_function(depth)

    def request(self, form: str, status: int, seconds: float) -> None:
        """Count an answered request."""
        self._requests.labels(form, str(status)).inc()
        self._seconds.labels(form).observe(seconds)

    def count(self, **queries: int) -> None:
        """Count queries, by where their answer comes from."""
        for answered, number in queries.items():
            if number:
                self._queries.labels(answered).inc(number)

    def batch(self, size: int) -> None:
        """Count a search."""
        self._batch.observe(size)

    def text(self) -> bytes:
        """Return all of it in Prometheus' text form."""
        return generate_latest(self._registry)
