"""The recorded outcomes of the `val` split, read here and not through `training`, as a check from outside."""

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
Floats = NDArray[np.floating]


@dataclass(frozen=True, slots=True)
class Recorded:
    """Every query of `val`: [n] prompts, [n, K] score and cost of the models that can enter a cost curve.

    NaN where a model's answer to a query was not recorded. `usd_per_million` is (input, output) by model.
    `assumed_tokens` is the length that a model's costs assume, where the table has costs but no lengths.
    """

    prompts: tuple[str, ...]
    models: tuple[str, ...]
    score: Floats
    cost_usd: Floats
    usd_per_million: dict[str, tuple[float, float]]
    assumed_tokens: dict[str, int]


def read(dataset: str, replay: Path) -> Recorded:
    """Reads `val`, and writes those rows to `replay` for the simulated experts.

    Left out: models without a price and those that hide their reasoning tokens, whose cost is too low.
    """
    table = pq.read_table(DATA / f"{dataset}.parquet")
    table = table.filter(pc.equal(table["split"], "val"))
    pq.write_table(table, replay)
    prices = _prices(dataset)
    rows = table.select(["query_id", "prompt", "model", "score", "cost_usd"]).to_pydict()
    models = sorted(set(rows["model"]) & set(prices))
    query = {identity: i for i, identity in enumerate(dict.fromkeys(rows["query_id"]))}
    column = {model: k for k, model in enumerate(models)}
    prompts = dict(zip(rows["query_id"], rows["prompt"], strict=True))
    score = np.full((len(query), len(models)), np.nan)
    cost = np.full_like(score, np.nan)
    for identity, model, s, c in zip(rows["query_id"], rows["model"], rows["score"], rows["cost_usd"], strict=True):
        if model in column:
            score[query[identity], column[model]] = s
            cost[query[identity], column[model]] = c
    priced = np.flatnonzero(np.isfinite(cost).any(axis=0))
    kept = tuple(models[k] for k in priced)
    return Recorded(
        prompts=tuple(prompts[identity] for identity in query),
        models=kept,
        score=score[:, priced],
        cost_usd=cost[:, priced],
        usd_per_million={model: prices[model] for model in kept},
        assumed_tokens={model: tokens for model in kept if (tokens := _assumed(table, model, prices[model]))},
    )


def _assumed(table: pa.Table, model: str, price: tuple[float, float]) -> int | None:
    rows = table.filter(pc.equal(table["model"], model)).select(["input_tokens", "output_tokens", "cost_usd"])
    given, said, cost = (column.to_numpy().astype(float) for column in rows.columns)
    if np.isfinite(said).any():
        return None
    return round(float(np.nanmedian((cost * 1e6 - given * price[0]) / price[1])))


def _prices(dataset: str) -> dict[str, tuple[float, float]]:
    with (DATA / "models.csv").open(encoding="utf-8", newline="") as file:
        return {
            row["model"]: (float(row["price_in_per_1m"]), float(row["price_out_per_1m"]))
            for row in csv.DictReader(file)
            if row["dataset"] == dataset and row["price_in_per_1m"] and row["hidden_reasoning_tokens"] != "True"
        }
