"""What a server is seen by from outside: counters for Prometheus, and the same for a page."""

from __future__ import annotations

import threading
import time
from collections import Counter as Tally
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from importlib.resources import files
from typing import Any

import numpy as np
from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest

from offramp.base.fields import Fields
from offramp.serving.models import ServedPlan
from offramp.serving.queueing import Journey
from offramp.serving.service import Observer, Served
from offramp.serving.shelf import Shelf

_SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
_RECENT = 5000  # requests that quantiles are of
_GUARD = {
    "wealth": "Of the test; 1 / error raises the alarm.",
    "alarm": "1 after it was raised.",
    "mean": "Loss of the audited rows.",
    "bound": "Upper end of the confidence sequence of that mean.",
    "promised": "What that mean may be.",
}
_MINUTE_S = 60.0  # that "now" is on the page


class Telemetry:
    """Counts what happens in a server.

    Args:
        shelf: the versions that are served.
    """

    kind: str = CONTENT_TYPE_PLAIN_0_0_4

    def __init__(self, shelf: Shelf) -> None:
        self.shelf = shelf
        self.registry = CollectorRegistry()
        own: dict[str, Any] = {"registry": self.registry, "namespace": "offramp"}
        self.requests = Counter("requests", "Requests by how they ended.", ["outcome"], **own)
        self.rows = Counter("rows", "Rows by the stage that answered.", ["stage"], **own)
        self.levels = Counter("level_requests", "Requests by level of brown-out.", ["level"], **own)
        self.audits = Counter("audits", "Rows that every stage scored after the fact.", **own)
        self.seconds = Histogram("request_seconds", "In the engine.", buckets=_SECONDS, **own)
        self.batch = Histogram("batch_rows", "Rows a run.", ["stage"], buckets=_ROWS, **own)
        self.computed = Histogram(
            "stage_compute_seconds", "Of a run.", ["stage"], buckets=_SECONDS, **own
        )
        self.waited = Histogram(
            "stage_wait_seconds", "Before a run.", ["stage"], buckets=_SECONDS, **own
        )
        self.registry.register(self)
        self._lock = threading.Lock()
        self._recent: deque[tuple[float, float, tuple[str, ...]]] = deque(maxlen=_RECENT)
        self._stops: Tally[str] = Tally()

    def observer(self, model: ServedPlan) -> Observer:
        """What tells this, and a model and its auditor, of what its service does."""
        return _Teller(self, model)

    def collect(self) -> Iterable[Metric]:
        """What is read when somebody asks: depths of queues, the dial, and the guards."""
        depth = GaugeMetricFamily("offramp_queue_depth", "Requests that wait.", labels=["stage"])
        level = GaugeMetricFamily("offramp_level", "Of brown-out; 0 without load.")
        tradeoff = GaugeMetricFamily("offramp_tradeoff", "Of the dial now.")
        current = self.shelf.current
        if current is not None:
            service = current.service
            for stage, queue in service.queues.items():
                depth.add_metric([stage], queue.depth)
            level.add_metric([], service.position_of(service.rung))
            turned = service.rung.plan.tradeoff
            tradeoff.add_metric([], float("nan") if turned is None else turned)
        yield from (depth, level, tradeoff)
        found = list(self.guards())
        for key, said in _GUARD.items():
            gauge = GaugeMetricFamily(f"offramp_guard_{key}", said, labels=["guard", "version"])
            for guard in found:
                value = guard["interval"][1] if key == "bound" else guard[key]
                gauge.add_metric([guard["guard"], guard["version"]], float(value))
            yield gauge

    def guards(self) -> Iterator[dict[str, Any]]:
        """What the guards of every version say, as JSON values."""
        for model in self.shelf.models:
            for state in model.auditor.states() if model.auditor else ():
                yield {**state, "version": model.version}

    def text(self) -> bytes:
        """As Prometheus reads it."""
        return generate_latest(self.registry)

    def figures(self) -> dict[str, Any]:
        """As the page reads it."""
        now = time.monotonic()
        with self._lock:
            recent, stops = list(self._recent), dict(self._stops)
        last = [one for one in recent if now - one[0] < _MINUTE_S]
        spent = np.array([seconds for _, seconds, _ in last]) * 1e3
        shown = Tally(stage for _, _, stages in last for stage in stages)
        current = self.shelf.current
        service = current.service if current else None
        order = list(service.plan.graph.order) if service else []
        return {
            "name": self.shelf.name,
            "versions": [model.version for model in self.shelf.models],
            "stages": order,
            "stops": {stage: stops.get(stage, 0) for stage in order},
            "recent_stops": {stage: shown.get(stage, 0) for stage in order},
            "certified_stops": dict(service.plan.profile.exits) if service else {},
            "requests_per_s": len(last) / min(_MINUTE_S, max(1.0, now - last[0][0])) if last else 0,
            "p50_ms": float(np.quantile(spent, 0.5)) if len(spent) else None,
            "p99_ms": float(np.quantile(spent, 0.99)) if len(spent) else None,
            "waiting": {s: q.depth for s, q in service.queues.items()} if service else {},
            "rows_inside": service.rows if service else 0,
            "level": service.position_of(service.rung) if service else 0,
            "levels": len(service.levels) if service else 0,
            "budget": service.rung.budget if service else None,
            "guards": list(self.guards()),
        }

    def answered(self, served: Served) -> None:
        """Counts an answer."""
        answers, seconds = served.answers, served.waited_s + served.computed_s
        self.requests.labels("answered").inc()
        self.levels.labels(str(served.level)).inc()
        self.seconds.observe(seconds)
        if len(answers.position) == 1:
            stages: tuple[str, ...] = (str(answers.stages[answers.position[0]]),)
        else:
            stages = tuple(map(str, answers.stage))
        for stage, rows in Tally(stages).items():
            self.rows.labels(stage).inc(rows)
        with self._lock:
            self._stops.update(stages)
            self._recent.append((time.monotonic(), seconds, stages))


class _Teller(Observer):
    """Tells the telemetry, the model, and who audits."""

    def __init__(self, seen: Telemetry, model: ServedPlan) -> None:
        self.seen, self.model = seen, model

    def ran(self, stage: str, journeys: Sequence[Journey], rows: int, seconds: float) -> None:
        seen = self.seen
        seen.batch.labels(stage).observe(rows)
        seen.computed.labels(stage).observe(seconds)
        for journey in journeys:
            seen.waited.labels(stage).observe(journey.waited_s)

    def answered(self, served: Served, fields: Fields, hold: Any) -> None:
        self.seen.answered(served)
        self.model.answered += 1
        if self.model.auditor is not None:
            self.model.auditor.observe(served, fields, hold)

    def refused(self, why: str) -> None:
        self.seen.requests.labels(why).inc()
        self.model.failed += why == "failed"


def shipped(name: str) -> str:
    """A file that comes along: `live.html`, which asks for `live.json`; `grafana.json`."""
    return files("offramp.serving").joinpath(name).read_text(encoding="utf-8")
