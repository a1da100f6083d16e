"""Realised quality: the prompts of `val` through HTTP, to a gateway whose experts replay what was recorded.

One simulated expert per model. `auto` is `balanced`: about half of what the best single model costs. What the
answers cost (`x-pointsman-cost-usd`) and what the chosen experts scored is held against the static mix of single
models on the same queries at the same cost, with a paired bootstrap over queries. The mix is fitted on these very
queries, which flatters it. Every query is sent. Where a model of the pool has no recorded answer to some, there
are two comparisons: over the queries that all have answered, and over all, an unrecorded answer counting as wrong.
"""

import http.client
import json
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import recorded
import served
import servers
from mix import resamples, static_mix, weighted_means
from numpy.typing import NDArray
from recorded import Floats, Recorded
from report import Figure, judged
from served import Place

from training.roster import ROSTER

DATASETS = ("mmlu_pro", "llmrouter")
RESAMPLES = 1000
CLIENTS = 8


@dataclass(frozen=True, slots=True)
class Sent:
    """What came back for one prompt; `expert` empty: the answer was no 200."""

    expert: str
    cost_usd: float


def measure(work: Path, cache_dir: Path) -> list[Figure]:
    figures = []
    for dataset in DATASETS:
        if not (recorded.DATA / f"{dataset}.parquet").exists():
            print(f"realised quality on {dataset}: skipped, there is no table of outcomes", flush=True)
            figures.append(Figure(f"{dataset}: quality over the static mix at the same cost", None, goal="> 0"))
            continue
        replay = work / f"{dataset}-val.parquet"
        table = recorded.read(dataset, replay)
        trained = _train(dataset, work)
        for label, artifact in (("trained on its train split", trained), ("shipped default", "default")):
            place = Place(work / f"realised-{dataset}-{label.split()[0]}", cache_dir)
            experts = _experts(table, replay, known=artifact != "default")
            sent = _send(experts, table.prompts, place, artifact)
            figures += judge(f"{dataset}, {label}", table, sent)
    return figures


def _train(dataset: str, work: Path) -> str:
    out = work / f"artifact-{dataset}"
    pointsman = str(Path(sys.executable).with_name("pointsman"))
    command = [pointsman, "train", "--data", str(recorded.DATA / f"{dataset}.parquet"), "--policy", "cluster"]
    subprocess.run([*command, "--out", str(out)], check=True)
    return str(out)


def _experts(table: Recorded, replay: Path, *, known: bool) -> list[dict[str, Any]]:
    """`known`: the artifact calls the models what the table does; else `like` says what they are."""
    return [
        {
            "name": model,
            "kind": "simulated",
            "like": model if known else ROSTER[model][0],
            "price": {"input": price_in, "output": price_out},
            "replay": {"table": str(replay), "model": model},
            "ttft_s": 1e-4,
            "token_s": 1e-7,
            **({"output_tokens": table.assumed_tokens[model]} if model in table.assumed_tokens else {}),
        }
        for model, (price_in, price_out) in table.usd_per_million.items()
    ]


def _send(experts: list[dict[str, Any]], prompts: tuple[str, ...], place: Place, artifact: str) -> list[Sent]:
    start = served.gateway("realised", experts, place, artifact=artifact, bound_s=180)
    local = threading.local()
    with servers.running(start, place.folder) as server, ThreadPoolExecutor(CLIENTS) as pool:

        def ask(prompt: str) -> Sent:
            if not hasattr(local, "connection"):
                local.connection = http.client.HTTPConnection(servers.LOOPBACK, server.port, timeout=60)
            return _ask(local.connection, prompt)

        return list(pool.map(ask, prompts))


def _ask(connection: http.client.HTTPConnection, prompt: str) -> Sent:
    body = json.dumps({"model": "auto", "messages": [{"role": "user", "content": prompt}]})
    headers = {"content-type": "application/json", "authorization": f"Bearer {served.KEY}"}
    connection.request("POST", "/v1/chat/completions", body, headers)
    answer = connection.getresponse()
    answer.read()
    if answer.status != 200:
        return Sent("", float("nan"))
    return Sent(answer.headers["x-pointsman-expert"], float(answer.headers["x-pointsman-cost-usd"]))


def judge(label: str, table: Recorded, sent: list[Sent]) -> list[Figure]:
    """The figures of one artifact on one data set."""
    answered = np.flatnonzero([bool(one.expert) for one in sent])
    chosen = np.array([table.models.index(sent[i].expert) for i in answered])
    paid = np.array([sent[i].cost_usd for i in answered])
    score, cost = table.score[answered], table.cost_usd[answered]
    whole = np.isfinite(score).all(axis=1)
    recorded_cost = cost[whole, chosen[whole]]
    apart = float(abs(paid[whole].sum() - recorded_cost.sum()) / recorded_cost.sum())
    figures = against_mix(label, score[whole], cost[whole], chosen[whole], paid[whole])
    if not whole.all():
        wrong, mean_cost = (
            np.nan_to_num(score, nan=0.0),
            np.where(np.isfinite(cost), cost, np.nanmean(cost, axis=0)),
        )
        everywhere = f"{label}, all {len(score)} queries (unrecorded counts as wrong)"
        figures += against_mix(everywhere, wrong, mean_cost, chosen, paid)[:1]
    return [
        *figures,
        Figure(f"{label}: queries compared", int(whole.sum())),
        judged(Figure(f"{label}: cost billed against cost recorded", apart, goal="< 0.01", unit="relative")),
        judged(Figure(f"{label}: queries failed", len(sent) - len(answered), goal="<= 0")),
    ]


def against_mix(label: str, score: Floats, cost: Floats, chosen: NDArray[np.intp], paid: Floats) -> list[Figure]:
    """`score` and `cost` are [n, K], `chosen` and `paid` [n]; the difference to the mix comes first."""
    weights = resamples(len(score), RESAMPLES, seed=0)
    mean_cost, quality = weighted_means(cost, weights), weighted_means(score, weights)
    spent = weights @ paid / len(score)
    reached = weights @ score[np.arange(len(score)), chosen] / len(score)
    best = int(quality[0].argmax())
    half_or_more = np.maximum(mean_cost[:, best] / 2, spent)
    return [
        interval(
            f"{label}: quality over the static mix at the same cost",
            reached - static_mix(mean_cost, quality, spent),
            goal="> 0",
        ),
        interval(f"{label}: realised quality", reached),
        interval(f"{label}: cost, as a share of the best single model's", spent / mean_cost[:, best]),
        interval(
            f"{label}: quality over a static mix that may spend half of the best's cost",
            reached - static_mix(mean_cost, quality, half_or_more),
        ),
    ]


def interval(name: str, values: Floats, goal: str | None = None, unit: str = "") -> Figure:
    """Row 0 is the sample, the others its resamples: the value and a 95 % interval."""
    low, high = np.quantile(values[1:], [0.025, 0.975])
    return judged(Figure(name, float(values[0]), float(low), float(high), unit, goal))
