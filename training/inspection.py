"""Looks into an artifact or a table of outcomes."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from router.errors import DataError
from router.types import Floats
from training.cards import COVERED, ArtifactCard, Expert, Headroom, Model, PairsCard, TableCard, judge
from training.data import TRAIN, cost_of, hashed_split, means_by
from training.importers import detect
from training.records import RecordFile
from training.source import Batch, batches


def inspect_artifact(folder: Path) -> ArtifactCard:
    """Raises `ArtifactError`."""
    from policies import load_policy

    policy, artifact = load_policy(folder)
    estimate = policy.predict(artifact.reference)
    quality, std = estimate.quality.mean(axis=0), estimate.std.mean(axis=0)
    experts = [
        Expert(name, float(quality[k]), float(std[k]), float(artifact.output_tokens[k]))
        for k, name in enumerate(artifact.experts)
    ]
    return ArtifactCard(
        folder=str(folder),
        kind=artifact.kind,
        version=artifact.version,
        params=dict(artifact.params),
        encoder=artifact.encoder.model_dump() if artifact.encoder else None,
        experts=sorted(experts, key=lambda expert: -expert.quality),
        reference_queries=len(artifact.reference),
        metrics=dict(artifact.metrics),
        data_digest=artifact.data_digest,
        files={path.name: path.stat().st_size for path in sorted(folder.iterdir())},
    )


def inspect_table(path: Path) -> TableCard | PairsCard:
    """Raises `DataError` naming file, row and column; a table of another format is named with what to do."""
    columns = RecordFile(path).head(1)[0].fields
    if {"model_a", "model_b", "winner"} <= set(columns):
        return _pairs(path)
    if not {"prompt", "model", "score"} <= set(columns):
        form = detect(RecordFile(path)).name
        raise DataError(f"{path} is no table of outcomes yet but {form}: turn it into one with `pointsman import`")
    tally = _Tally()
    for batch in batches(path):
        tally.add(batch)
    return tally.card(path)


def _pairs(path: Path) -> PairsCard:
    models, winners, splits = Counter[str](), Counter[str](), dict[str, str]()
    rows = 0
    for rows, record in enumerate(RecordFile(path).records(), 1):  # noqa: B007
        prompt = record.needed("prompt")
        models.update((record.needed("model_a"), record.needed("model_b")))
        winners[record.needed("winner")] += 1
        splits[prompt] = record.text("split") or hashed_split(prompt)
    return PairsCard(
        path=str(path),
        bytes=path.stat().st_size,
        rows=rows,
        prompts=len(splits),
        models=dict(models.most_common()),
        winners=dict(winners.most_common()),
        splits=dict(Counter(splits.values())),
    )


@dataclass
class _Tally:
    """What was read so far: every row's prompt and model by their number, and its figures."""

    prompts: dict[str, int] = field(default_factory=dict)
    models: dict[str, int] = field(default_factory=dict)
    splits: list[str] = field(default_factory=list)
    domains: list[str] = field(default_factory=list)
    straddling: set[int] = field(default_factory=set)
    columns: dict[str, list[NDArray[Any]]] = field(default_factory=dict)

    def add(self, batch: Batch) -> None:
        query = np.empty(len(batch), dtype=np.int64)
        places = zip(batch.texts["prompt"], batch.optional("split"), batch.optional("domain"), strict=True)
        for i, (prompt, split, domain) in enumerate(places):
            text = str(prompt)
            row = query[i] = self.prompts.setdefault(text, len(self.prompts))
            split = split or hashed_split(text)
            if row == len(self.splits):
                self.splits.append(split)
                self.domains.append(domain or "")
            elif self.splits[row] != split:
                self.straddling.add(int(row))
        model = [self.models.setdefault(str(name), len(self.models)) for name in batch.texts["model"]]
        # a lower bound is no cost, as in training
        bound = [str(kind).startswith("lower_bound") for kind in batch.optional("cost_kind")]
        columns = {
            "query": query,
            "model": np.array(model, dtype=np.int64),
            "score": batch.numbers["score"],
            "cost_usd": np.where(bound, np.nan, cost_of(batch.numbers)),
            "output_tokens": np.where(bound, np.nan, batch.numbers["output_tokens"]),
        }
        for name, values in columns.items():
            self.columns.setdefault(name, []).append(values)

    def card(self, path: Path) -> TableCard:
        if not self.columns:
            raise DataError(f"{path} holds no row")
        columns = {name: np.concatenate(parts) for name, parts in self.columns.items()}
        score = columns["score"]
        scored = np.isfinite(score)
        cells = columns["query"] * len(self.models) + columns["model"]
        every = _Scores(columns["query"], columns["model"], score)
        distinct = every.where(np.flatnonzero(scored)[np.unique(cells[scored], return_index=True)[1]])
        models = sorted(
            self._models(columns, distinct), key=lambda one: -1.0 if one.score is None else one.score, reverse=True
        )
        headroom = self._headroom(distinct)
        splits = dict(Counter(self.splits))
        return TableCard(
            path=str(path),
            bytes=path.stat().st_size,
            rows=len(score),
            prompts=len(self.prompts),
            models=models,
            coverage=len(distinct.score) / (len(self.prompts) * len(self.models)),
            scores=(float(score[scored].min()), float(score[scored].max())) if scored.any() else None,
            missing_scores=int((~scored).sum()),
            repeats=len(cells) - len(np.unique(cells)),
            costs=int(np.isfinite(columns["cost_usd"]).sum()),
            domains=dict(Counter(filter(None, self.domains)).most_common()),
            splits=splits,
            straddling=len(self.straddling),
            headroom=headroom,
            verdict=judge(models, splits, headroom),
        )

    def _models(self, columns: Mapping[str, NDArray[Any]], distinct: "_Scores") -> list[Model]:
        size, model = len(self.models), columns["model"]
        in_train = np.array([split == TRAIN for split in self.splits])[distinct.query]
        rows = np.bincount(model, minlength=size)
        scored = np.bincount(model[np.isfinite(columns["score"])], minlength=size)
        train = np.bincount(distinct.model[in_train], minlength=size)
        means = {name: means_by(model, columns[name], size) for name in ("score", "cost_usd", "output_tokens")}
        return [
            Model(
                name,
                int(rows[k]),
                int(scored[k]),
                int(train[k]),
                **{figure: float(mean[k]) if np.isfinite(mean[k]) else None for figure, mean in means.items()},
            )
            for name, k in self.models.items()
        ]

    def _headroom(self, scores: "_Scores") -> Headroom | None:
        models, prompts = len(self.models), len(self.prompts)
        often = np.bincount(scores.model, minlength=models) >= COVERED * prompts
        scores = scores.where(often[scores.model])
        complete = np.bincount(scores.query, minlength=prompts) == often.sum()
        scores = scores.where(complete[scores.query])
        if often.sum() < 2 or not complete.any():
            return None
        best = np.full(prompts, -np.inf)
        np.maximum.at(best, scores.query, scores.score)
        means = np.nan_to_num(means_by(scores.model, scores.score, models), nan=-1.0)
        return Headroom(
            prompts=int(complete.sum()),
            models=int(often.sum()),
            best=list(self.models)[int(means.argmax())],
            best_score=float(means.max()),
            oracle_score=float(best[complete].mean()),
        )


@dataclass(frozen=True)
class _Scores:
    """Scores by the numbers of their prompt and model."""

    query: NDArray[np.int64]
    model: NDArray[np.int64]
    score: Floats

    def where(self, rows: NDArray[Any]) -> "_Scores":
        return _Scores(self.query[rows], self.model[rows], self.score[rows])
