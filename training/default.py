"""Makes the artifact that ships: `python -m training.default ../shared/data`.

One policy over the union of the outcome tables, with every model known by one name and every tier an expert of its
own: what the models of a tier reach on a query, on average. It holds numbers only.
"""

import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from policies import default_artifact
from router.artifact import EncoderStamp, save
from router.config import EncoderSettings
from router.embedding import Encoder
from router.policy import Policy
from router.types import TIERS, Floats, Outcomes, Tier, tier_column
from training.data import TRAIN, VAL, Table, read_tables
from training.embedding import VectorCache
from training.evaluate import evaluate
from training.fit import build, fit
from training.roster import ROSTER

SEED = 0
TWO_MODEL_PROMPTS = 1_000

Grouping = Callable[[Outcomes], dict[str, list[int]]]


def grouped(outcomes: Outcomes, groups: Mapping[str, list[int]]) -> Outcomes:
    """One expert per group of columns: the mean of those observed on a query, NaN where none was."""

    def mean(matrix: Floats) -> Floats:
        columns = []
        for members in groups.values():
            part = matrix[:, members]
            seen = np.isfinite(part)
            count = seen.sum(axis=1)
            total = np.where(seen, part, 0.0).sum(axis=1)
            columns.append(np.divide(total, count, out=np.full(len(part), np.nan), where=count > 0))
        return np.stack(columns, axis=1)

    return replace(
        outcomes,
        experts=tuple(groups),
        quality=mean(outcomes.quality),
        cost_usd=mean(outcomes.cost_usd),
        output_tokens=mean(outcomes.output_tokens),
    )


def known_names(outcomes: Outcomes, roster: Mapping[str, tuple[str, Tier | None]] = ROSTER) -> dict[str, list[int]]:
    """Columns by the model's one name; a model that is not in the roster keeps its own."""
    groups: dict[str, list[int]] = {}
    for column, model in enumerate(outcomes.experts):
        groups.setdefault(roster[model][0] if model in roster else model, []).append(column)
    return groups


def tiers(outcomes: Outcomes, roster: Mapping[str, tuple[str, Tier | None]] = ROSTER) -> dict[str, list[int]]:
    """Columns by the tier's pseudo-expert; tiers without a model are left out."""
    found: dict[str, list[int]] = {}
    for tier in TIERS:
        members = [k for k, model in enumerate(outcomes.experts) if model in roster and roster[model][1] == tier]
        if members:
            found[tier_column(tier)] = members
    return found


def with_tiers(table: Table) -> Table:
    """The table as the shipped policy learns it: known models, then tiers.

    Where but two models were asked, a tier is one model and no mean: only some of those prompts teach tiers.
    """
    outcomes = table.outcomes
    models, classes = known_names(outcomes), tiers(outcomes)
    learned = grouped(outcomes, models | classes)
    few = np.flatnonzero(np.isfinite(learned.quality[:, : len(models)]).sum(axis=1) < 3)
    surplus = np.random.default_rng(SEED).permutation(few)[TWO_MODEL_PROMPTS:]
    learned.quality[surplus, len(models) :] = np.nan
    return replace(table, outcomes=learned)


def held_out(policy: Policy, tables: Mapping[str, Table], groups: Grouping) -> dict[str, object]:
    """The policy on each table's held-out prompts, with `groups` as the pool to choose from."""
    return {
        name: evaluate(
            policy,
            grouped(table.outcomes, groups(table.outcomes)),
            np.random.default_rng(SEED),
            dataset=name,
        ).brief()
        for name, table in tables.items()
    }


def main(folder: Path, out: Path, say: Callable[[str], None]) -> None:
    paths = sorted(folder.glob("*.parquet"))
    tables = {"": read_tables(paths).split(TRAIN)} | {path.stem: read_tables([path]).split(VAL) for path in paths}
    encoder = Encoder(EncoderSettings())
    encoder.load()
    say(f"{len(tables[''].prompts):,} prompts; encoding those that are not cached")
    cache = VectorCache(encoder)
    tables = {name: table.embedded(cache.embed(table.prompts)) for name, table in tables.items()}
    encoder.close()
    stamp = EncoderStamp(name=encoder.name, revision=encoder.revision, dimension=encoder.dimension)
    policy = build("cluster", {}, SEED)
    artifact = fit(policy, with_tiers(tables.pop("")), stamp, SEED)
    metrics = {f"val_{name}": held_out(policy, tables, groups) for name, groups in POOLS.items()}
    say(f"wrote {out}, version {save(replace(artifact, metrics={**artifact.metrics, **metrics}), out)}")
    for pool, reports in metrics.items():
        for name, report in reports.items():
            say(f"{pool} {name}: {report}")


#: The pools on which the artifact is judged.
POOLS: dict[str, Grouping] = {"tiers": tiers, "models": known_names}

if __name__ == "__main__":
    main(Path(sys.argv[1]), default_artifact(), print)
