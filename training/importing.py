"""Files of known formats in, one Parquet table of outcomes (or of judgments) out."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from router.errors import DataError
from training.importers import detect, importer
from training.importers.base import Importer, Skipped
from training.outcome_file import Counts, OutcomeFile, Rules, opened
from training.records import RecordFile

REPORT_EVERY = 1_000


@dataclass
class Summary:
    """What an import did. `formats` is by file, `skipped` counts the records that were no outcomes, by why."""

    out: Path
    kind: str  # outcomes or pairs
    formats: dict[str, str]
    counts: Counts
    skipped: Counter[str] = field(default_factory=Counter)

    def warnings(self) -> list[str]:
        """What stands in the way of training on the file, one line each."""
        counts, found = self.counts, []
        if self.kind == "outcomes":
            if not counts.scored:
                found.append("no row has a score: a policy cannot be trained on it")
            unscored = sorted(set(counts.models) - set(counts.scored)) if counts.scored else []
            if unscored:
                found.append(f"no score for {', '.join(unscored)}: training refuses a model without one")
            if len(counts.models) == 1:
                found.append(f"only one model, {next(iter(counts.models))!r}: there is nothing to choose from")
            if not counts.costs:
                found.append("no row has a cost: give --prices if the tokens are known")
            if counts.vectors_only:
                found.append(f"{counts.vectors_only:,} rows have a vector and no prompt")
        if counts.repeats:
            found.append(
                f"{counts.repeats:,} rows repeat a model on a prompt; training averages those that are kept"
            )
        if counts.same_ids:
            found.append(f"{counts.same_ids:,} rows of a call that was there already were left out")
        return found

    def as_json(self) -> dict[str, Any]:
        """For `json.dumps`; a model's mean is null where it has no score."""
        counts = self.counts
        models = {
            name: {
                "rows": rows,
                "scored": counts.scored[name],
                "mean": counts.total[name] / counts.scored[name] if counts.scored[name] else None,
            }
            for name, rows in counts.models.most_common()
        }
        return {
            "out": str(self.out),
            "kind": self.kind,
            "formats": self.formats,
            "rows": counts.rows,
            "prompts": counts.prompts,
            "models": models,
            "domains": sorted(counts.domains),
            "splits": dict(counts.splits),
            "costs": counts.costs,
            "repeats": counts.repeats,
            "same_ids": counts.same_ids,
            "vectors_only": counts.vectors_only,
            "skipped": dict(self.skipped),
            "warnings": self.warnings(),
        }


def import_files(
    files: Sequence[RecordFile],
    out: Path,
    rules: Rules,
    *,
    format_name: str | None = None,
    progress: Callable[[float], None] = lambda _: None,
) -> Summary:
    """Reads `files` into `out`, whole or not at all. `format_name`: None finds out by each file's first records.

    `progress` is called with the share that is done, weighted by the files' sizes. Raises `DataError` naming file,
    row and column.
    """
    if not files:
        raise DataError("no file to import")
    if out.suffix != ".parquet":
        raise DataError(f"--out {out}: what is imported is written as Parquet; name a file that ends in .parquet")
    formats = [importer(format_name) if format_name else detect(file) for file in files]
    _check(files, formats)
    judges, vectors = formats[0].judges, any(one.vectors for one in formats)
    sizes = [file.path.stat().st_size for file in files]

    def report() -> None:
        progress(sum(size * file.share for size, file in zip(sizes, files, strict=True)) / sum(sizes))

    ratings: dict[str, tuple[float, float]] = {}
    for file, one in zip(files, formats, strict=True):
        if one.later_ratings:
            one.look_ahead(file.records(), ratings)
    with opened(out, rules, judges, vectors) as target:
        named = {str(file.path): one.name for file, one in zip(files, formats, strict=True)}
        summary = Summary(out, "pairs" if judges else "outcomes", named, target.counts)
        for file, one in zip(files, formats, strict=True):
            summary.skipped += _read(file, one, target, report)
    return summary


def _check(files: Sequence[RecordFile], formats: Sequence[Importer]) -> None:
    for file, one in zip(files, formats, strict=True):
        one.check(file.head())
        if one.judges != formats[0].judges:
            raise DataError(
                f"{file.path} holds {_what(one)}, {files[0].path} {_what(formats[0])}: import them apart"
            )


def _what(one: Importer) -> str:
    return f"{'judgments' if one.judges else 'outcomes'} ({one.name})"


def _read(file: RecordFile, one: Importer, target: OutcomeFile, report: Callable[[], None]) -> Counter[str]:
    """Reads one file to its end; gives back what was skipped."""
    skipped: Counter[str] = Counter()
    for number, record in enumerate(file.records()):
        for row in one.read(record):
            if isinstance(row, Skipped):
                skipped[row.reason] += 1
            else:
                target.add(row, one)
        if number % REPORT_EVERY == 0:
            report()
    report()
    return skipped


def read_prices(path: Path) -> Mapping[str, tuple[float, float, bool]]:
    """USD per million tokens by model, out of a CSV: `model`, `price_in_per_1m`, `price_out_per_1m`.

    A true `hidden_reasoning_tokens` marks a model whose cost is then a lower bound. Rows without a price are passed
    over; of several rows of a model the last counts.
    """
    prices = {}
    for record in RecordFile(path).records():
        for column in ("model", "price_in_per_1m", "price_out_per_1m"):
            if column not in record.fields:
                raise DataError(f"{path}: the column {column!r} is missing; there are: {', '.join(record.fields)}")
        price_in, price_out = record.amount("price_in_per_1m"), record.amount("price_out_per_1m")
        if price_in == price_in and price_out == price_out:
            prices[record.needed("model")] = (price_in, price_out, record.number("hidden_reasoning_tokens") == 1)
    return prices
