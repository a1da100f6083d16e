"""What Prometheus scrapes. One registry per application; label children are looked up once per expert."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from router.types import PLAIN, Parts, Usage

LATENCY_BUCKETS = (0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 60)
OVERHEAD_BUCKETS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1)
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


@dataclass(frozen=True, slots=True)
class ExpertMetrics:
    input_tokens: Counter
    cached_tokens: Counter
    output_tokens: Counter
    cost_usd: Counter
    ttft_s: Histogram


class Metrics:
    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        self.requests = Counter(
            "pointsman_requests", "Answered requests", ["surface", "expert", "status"], registry=registry
        )
        self.failures = Counter(
            "pointsman_attempt_failures", "Attempts at an expert that failed", ["expert", "kind"], registry=registry
        )
        self.decisions = Counter(
            "pointsman_decisions",
            "Routed requests by who served",
            ["preference", "expert"],
            registry=registry,
        )
        self.overhead_s = Histogram(
            "pointsman_overhead_seconds",
            "Time inside the gateway, upstream excluded",
            buckets=OVERHEAD_BUCKETS,
            registry=registry,
        )
        self.encode_s = Histogram(
            "pointsman_encode_seconds", "Time to embed a query", buckets=OVERHEAD_BUCKETS, registry=registry
        )
        self.in_flight = Gauge("pointsman_in_flight", "Requests under way", registry=registry)
        self._ledger_up = Gauge("pointsman_ledger_up", "1 while the ledger answers", registry=registry)
        self._ledger_owed = Gauge("pointsman_ledger_owed", "Records not yet in the ledger", registry=registry)
        self.config_changes = Counter(
            "pointsman_config_changes", "Changes of the configuration", ["result"], registry=registry
        )
        self.config_refused = Gauge(
            "pointsman_config_refused", "1 while the newest configuration is not at work", registry=registry
        )
        self._tokens = Counter("pointsman_tokens", "Tokens by expert", ["expert", "kind"], registry=registry)
        self._cost = Counter("pointsman_cost_usd", "Spend by expert", ["expert"], registry=registry)
        self._ttft = Histogram(
            "pointsman_first_byte_seconds",
            "Time to an expert's first byte",
            ["expert"],
            buckets=LATENCY_BUCKETS,
            registry=registry,
        )
        self._watched: dict[str, tuple[Gauge, Gauge]] = {}
        self._experts: dict[str, ExpertMetrics] = {}
        self._answered: dict[tuple[str, str, int], Counter] = {}

    def know(self, experts: Iterable[str]) -> None:
        """Experts whose figures are shown from now on; those of others stay."""
        for name in experts:
            if name not in self._experts:
                self._experts[name] = ExpertMetrics(
                    input_tokens=self._tokens.labels(name, "input"),
                    cached_tokens=self._tokens.labels(name, "cached"),
                    output_tokens=self._tokens.labels(name, "output"),
                    cost_usd=self._cost.labels(name),
                    ttft_s=self._ttft.labels(name),
                )

    def answered(self, surface: str, expert: str, status: int) -> None:
        """Counts one answer; `expert` is empty where none was called."""
        key = (surface, expert, status)
        counter = self._answered.get(key)
        if counter is None:
            counter = self._answered[key] = self.requests.labels(surface, expert, str(status))
        counter.inc()

    def spent(self, expert: str, usage: Usage, cost_nano: int, ttft_s: float) -> None:
        metrics = self._experts[expert]
        metrics.input_tokens.inc(usage.input_tokens)
        metrics.output_tokens.inc(usage.output_tokens)
        if usage.cached_tokens:
            metrics.cached_tokens.inc(usage.cached_tokens)
        if usage.parts is not PLAIN:
            for name, count in zip(Parts._fields, usage.parts, strict=True):
                if count:
                    self._tokens.labels(expert, name.removesuffix("_tokens")).inc(count)
        metrics.cost_usd.inc(cost_nano / 1e9)
        metrics.ttft_s.observe(ttft_s)

    def watch_ledger(self, up: Callable[[], bool], owed: Callable[[], int]) -> None:
        self._ledger_up.set_function(lambda: float(up()))
        self._ledger_owed.set_function(lambda: float(owed()))

    def watch_limits(self, up: Callable[[], bool], owed: Callable[[], int], dropped: Callable[[], int]) -> None:
        """Only where something is limited; `owed` and `dropped` are settlements."""
        shared = Gauge(
            "pointsman_limits_shared",
            "1 while limits hold over all replicas, 0 while this one goes by its own share",
            registry=self._registry,
        )
        shared.set_function(lambda: float(up()))
        self._watch("pointsman_settlements", owed, dropped)

    def watch_decisions(self, owed: Callable[[], int], dropped: Callable[[], int]) -> None:
        """Only where decisions are logged; those of the last log that was begun."""
        self._watch("pointsman_decision_rows", owed, dropped)

    def _watch(self, name: str, owed: Callable[[], int], dropped: Callable[[], int]) -> None:
        if name not in self._watched:
            self._watched[name] = (
                Gauge(f"{name}_owed", "Not yet in Redis.", registry=self._registry),
                Gauge(f"{name}_dropped", "Found no room.", registry=self._registry),
            )
        for gauge, figure in zip(self._watched[name], (owed, dropped), strict=True):
            gauge.set_function(figure)

    def text(self) -> bytes:
        return generate_latest(self._registry)
