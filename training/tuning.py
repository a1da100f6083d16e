"""Searches a policy's parameters for the gain over the static mix on rows that it was not fitted to.

Tree-structured Parzen estimator (Bergstra et al., 2011), Optuna's. What it asks next depends on the finished
trials, the seed and the trial's number alone, so a search that was cut off and taken up again asks what it would
have asked.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from router.artifact import EncoderStamp
from router.errors import DataError, PointsmanError
from router.files import write_whole
from router.policy import Policy
from router.types import Outcomes
from training.curve import Curve, Sample, static_mix
from training.data import Table
from training.evaluate import comparable, known_experts
from training.fit import build, fit
from training.jobs import Shared
from training.run_folder import code_version
from training.space import Range, Space

JOURNAL = "tune.jsonl"
DISTINCT = 1_000_003  # seeds apart, so that the trials of two searches share no draws


@dataclass(frozen=True)
class Setting:
    """What is searched for: `fixed` parameters are not searched, `digests` are the tables'.

    With `folds`, the rows to learn from are cut into so many parts, each judged by a fit to the others, and the
    held-out rows are left alone; with 0, the held-out rows judge.
    """

    kind: str
    fixed: Mapping[str, Any]
    seed: int
    folds: int
    encoder: EncoderStamp | None
    digests: tuple[str, ...]

    def about(self, space: Space) -> dict[str, Any]:
        """What a search depends on: another one goes its own way in the same folder."""
        forms = {name: form.as_json() if isinstance(form, Range) else list(form) for name, form in space.items()}
        encoder = self.encoder.model_dump() if self.encoder else None
        return {**asdict(self), "encoder": encoder, "space": forms, "code": code_version()}


@dataclass(frozen=True)
class Attempt:
    """Parameters to be tried on `tables`, pairs of `Table`s: to learn from, and held out.

    `number` is None for the defaults, which no search asked for.
    """

    number: int | None
    setting: Setting
    params: Mapping[str, Any]
    tables: Shared


def attempt(item: Attempt) -> dict[str, Any]:
    """The mean `gain` over the tables and their parts; or else why there is none, as `failed`."""
    gains, folds = [], item.setting.folds
    try:
        for table, held_out in item.tables.get():
            pairs = cut(table, folds, item.setting.seed) if folds else [(table, held_out)]
            gains.append(np.mean([_tried(item, learned, judged) for learned, judged in pairs]))
    except PointsmanError as error:
        return {"failed": str(error)}
    return {"gain": float(np.mean(gains))}


def _tried(item: Attempt, learned: Table, judged: Table) -> float:
    setting = item.setting
    policy = build(setting.kind, {**setting.fixed, **item.params}, setting.seed)
    fit(policy, learned, setting.encoder, setting.seed)
    return gain(policy, judged.outcomes)


def cut(table: Table, folds: int, seed: int) -> Iterator[tuple[Table, Table]]:
    """Pairs of the rows to learn from and a part to judge on; with one fold, that part is a quarter of the rows."""
    shuffled = np.random.default_rng(seed).permutation(len(table.outcomes))
    parts = np.array_split(shuffled, folds) if folds > 1 else np.array_split(shuffled, 4)[:1]
    for number, part in enumerate(parts):
        held = np.zeros(len(shuffled), dtype=bool)
        held[part] = True
        yield (
            table.part(np.flatnonzero(~held), f"but fold {number}"),
            table.part(np.flatnonzero(held), f"fold {number}"),
        )


def gain(policy: Policy, outcomes: Outcomes) -> float:
    """The area above the static mix's, as `training.evaluate` has it, without its resamples."""
    known, columns, _ = known_experts(outcomes, policy.experts_)
    predicted = policy.predict(known.queries).quality[:, columns]
    rows, kept, _ = comparable(known)
    cells = np.ix_(rows, kept)
    sample = Sample(quality=known.quality[cells], cost=known.cost_usd[cells])
    cost, quality = sample.cost.mean(axis=0), sample.quality.mean(axis=0)
    low, high = float(cost.min()), float(cost[quality.argmax()])
    spent, reached = (path.mean(axis=0) for path in sample.swept(predicted[cells]))
    return Curve.through(spent, reached).area(low, high) - static_mix(cost, quality).area(low, high)


@dataclass(frozen=True)
class Trial:
    number: int
    params: Mapping[str, Any]
    gain: float | None  # None: it failed


class Search:
    """A search kept in `folder`, which is locked; what `about` describes tells it from others there."""

    def __init__(self, folder: Path, about: Mapping[str, Any], space: Space, seed: int) -> None:
        import optuna
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend

        self._optuna = optuna
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._space = {name: _distribution(form) for name, form in space.items()}
        self._seed = seed
        path = folder / JOURNAL
        name = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:16]
        try:
            _mend(path)
            storage = JournalStorage(JournalFileBackend(str(path)))
            self._study = optuna.create_study(
                storage=storage, study_name=name, direction="maximize", load_if_exists=True
            )
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(
                f"cannot use {path}, which is damaged ({error}): remove it, or choose another --out"
            ) from error

    def trials(self) -> list[Trial]:
        """Those that are finished, in the order asked."""
        return [
            Trial(trial.number, dict(trial.params), trial.value if trial.state.name == "COMPLETE" else None)
            for trial in self._study.get_trials(deepcopy=False)
            if trial.state.is_finished()
        ]

    def asked(self, trials: int) -> Iterator[tuple[int, dict[str, Any]]]:
        """Numbers and parameters until so many trials were asked for: first those that a killed run began."""
        begun = self._optuna.trial.TrialState.RUNNING
        for trial in self._study.get_trials(deepcopy=False):
            if trial.state == begun:
                if set(trial.params) == set(self._space):
                    yield trial.number, dict(trial.params)
                else:
                    self.tell(trial.number, None)
        while (number := len(self._study.get_trials(deepcopy=False))) < trials:
            self._study.sampler = self._optuna.samplers.TPESampler(seed=self._seed * DISTINCT + number)
            trial = self._study.ask(self._space)
            yield trial.number, dict(trial.params)

    def tell(self, number: int, gain: float | None) -> None:
        failed = self._optuna.trial.TrialState.FAIL
        self._study.tell(number, gain, state=failed if gain is None else None)


def _mend(path: Path) -> None:
    """Takes away the line that a killed run had begun, and the mark that it was writing."""
    path.with_name(path.name + ".lock").unlink(missing_ok=True)
    if path.exists():
        content = path.read_bytes()
        if not content.endswith(b"\n"):
            write_whole(path, content[: content.rfind(b"\n") + 1])


def best_of(trials: Sequence[Trial]) -> Trial | None:
    """The trial that gained most, the first of equals; None where all failed."""
    worked = [trial for trial in trials if trial.gain is not None]
    return max(worked, key=lambda trial: (trial.gain or 0.0, -trial.number)) if worked else None


def _distribution(form: Range | tuple[Any, ...]) -> Any:
    import optuna

    if not isinstance(form, Range):
        return optuna.distributions.CategoricalDistribution(form)
    if form.whole:
        return optuna.distributions.IntDistribution(int(form.low), int(form.high), log=form.log)
    return optuna.distributions.FloatDistribution(float(form.low), float(form.high), log=form.log)
