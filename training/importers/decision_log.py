"""Our own decision log: one row per routed call, as JSON lines or Parquet.

| column | what |
|---|---|
| `decision_id` | names the call (`decision`, or `id`, will do); a second row of it is the same row |
| `expert` | the model that served |
| `prompt` | the text that was embedded; empty where the log keeps none |
| `embedding` | its vector, a list of numbers, where the log keeps that instead |
| `score` or `feedback` | a number in [0, 1], a truth, or `up` and `down`; empty where nobody rated |
| `propensity` | probability in (0, 1] with which the expert was chosen |
| `input_tokens`, `output_tokens`, `cost_usd` | of the call |
| `ttft_s`, `latency_s` | seconds to the first token and to the last |
| `domain` | if the caller named one |
| `kind` | `feedback`: a later rating of `decision_id`, by `at` (Unix seconds); the last one counts |
| `ok` | false for a call that failed; such rows are no outcomes |

A row with neither prompt nor vector teaches nothing and is counted as such.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, ClassVar

from router.types import NULL_PREFIX
from training.importers.base import Importer, Row, Skipped, first_of, has, rating
from training.records import Record

IDS = ("decision_id", "decision", "id")


class DecisionLog(Importer):
    summary: ClassVar[str] = "Pointsman's own decision log (JSON lines, Parquet)"
    needed: ClassVar[tuple[str, ...]] = ("expert",)
    unique_ids: ClassVar[bool] = True
    vectors: ClassVar[bool] = True

    later_ratings: ClassVar[bool] = True

    def __init__(self) -> None:
        self._ratings: dict[str, tuple[float, float]] = {}

    def look_ahead(self, records: Iterable[Record], ratings: dict[str, tuple[float, float]]) -> None:
        self._ratings = ratings
        for record in records:
            if record.text("kind") == "feedback":
                name, score, at = first_of(record, *IDS), rating(record)[0], record.number("at")
                if name is not None and not math.isnan(score) and at >= ratings.get(name, (-math.inf, 0.0))[0]:
                    ratings[name] = (at, score)

    def recognises(self, head: Sequence[Record]) -> bool:
        return has(head, "expert") and any(has(head, name) for name in IDS[:2])

    def read(self, record: Record) -> Iterator[Row | Skipped]:
        if record.text("kind") == "feedback":
            return
        if not math.isnan(record.number("ok")) and not record.number("ok"):
            yield Skipped("calls that failed")
            return
        if (record.text("expert") or "").startswith(NULL_PREFIX):
            yield Skipped("answers out of the cache")  # no expert's work
            return
        prompt, vector = record.text("prompt"), _vector(record)
        if prompt is None and vector is None:
            yield Skipped("calls without prompt and vector")
            return
        propensity = record.number("propensity")
        if not math.isnan(propensity) and not 0 < propensity <= 1:
            raise record.error("propensity", f"{propensity:g} is not a probability in (0, 1]")
        score, column = rating(record)
        if later := self._ratings.get(first_of(record, *IDS) or ""):
            score = later[1]
        yield Row(
            record,
            prompt,
            record.needed("expert"),
            score,
            column,
            query_id=first_of(record, *IDS),
            domain=record.text("domain"),
            input_tokens=record.amount("input_tokens"),
            output_tokens=record.amount("output_tokens"),
            cost_usd=record.amount("cost_usd"),
            latency_s=record.amount("latency_s"),
            propensity=propensity,
            ttft_s=record.amount("ttft_s"),
            embedding=vector,
            cost_kind="given",
        )


def _vector(record: Record) -> list[float] | None:
    value: Any = record.fields.get("embedding")
    if value is None:
        return None
    if not isinstance(value, list) or not all(isinstance(x, int | float) and math.isfinite(x) for x in value):
        raise record.error("embedding", "expected a list of finite numbers")
    return value or None
