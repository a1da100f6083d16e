"""An artifact and the tables that it is judged on: reports, studies and the page, for a command."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from policies import policy_class
from router.artifact import Artifact
from router.errors import ConfigError, DataError
from router.policy import Policy
from router.types import Floats
from training.command_line import progressing
from training.data import ALL, TRAIN, Table
from training.evaluate import evaluate
from training.fit import build
from training.kept_fits import Fitted, afresh
from training.page.document import Document, Section
from training.report import Report
from training.studies.base import Setup
from training.studies.suite import Studies, Suite

if TYPE_CHECKING:
    from rich.console import Console


@dataclass(frozen=True)
class Wanted:
    """Studies, and the settings that `ablation` tries. `plain`: trained anew without the steps after a policy."""

    studies: Sequence[str] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    plain: bool = False

    def check(self, split: str) -> None:
        """Raises `ConfigError` where studies would judge on rows that they train on."""
        if self.studies and split in (TRAIN, ALL):
            raise ConfigError(f"--studies train on the split {TRAIN!r}: --split {split} leaves nothing to judge on")


@dataclass(frozen=True)
class Evaluation:
    """`tables` hold the rows of `split`, by name and with their vectors; `train` those to train on, for studies.

    `encoder` embeds what is worded anew; None where the policy reads no query.
    """

    artifact: Artifact
    policy: Policy
    encoder: str | None
    split: str
    seed: int
    tables: Mapping[str, Table]
    train: Mapping[str, Table]

    @property
    def notes(self) -> list[str]:
        return [f"{name}: {note}" for name, table in self.tables.items() for note in table.notes]

    def check(self, wanted: Wanted) -> None:
        """Raises `ConfigError` for a setting that the policy does not have or take."""
        build(self.artifact.kind, wanted.settings, self.seed)

    def report(self, name: str) -> Report:
        """Of one table. Raises `DataError` naming it."""
        rng = np.random.default_rng(self.seed)
        try:
            return evaluate(self.policy, self.tables[name].outcomes, rng, dataset=name)
        except DataError as error:
            raise DataError(f"{name}: {error}") from error

    def studied(self, wanted: Wanted, console: "Console", fitted: Fitted = afresh) -> list[Studies]:
        """Of every table; `fitted` makes the fits."""
        kind, params = policy_class(self.artifact.kind), self.artifact.params
        assure = bool(self.artifact.steps) and not wanted.plain
        found = []
        with _embedding(self.encoder if "robustness" in wanted.studies else None) as embed:
            for name, table in self.tables.items():
                train = self.train.get(name, table).outcomes
                setup = Setup(lambda: kind(**params), train, table.outcomes, self.seed, assure, fitted)
                suite = Suite(setup, self.policy, embed, wanted.settings)

                def ticking(study: str, steps: int, name: str = name) -> Any:
                    return progressing(console, f"{name}, {study}", steps)

                found.append(suite.all(wanted.studies, ticking))
        return found

    def document(self, reports: Sequence[Report], studies: Sequence[Studies]) -> Document:
        facts = [
            f"{self.artifact.kind}@{self.artifact.version}",
            f"judged on the split {self.split}",
            f"encoder {Path(self.encoder).name}" if self.encoder else "reads no query",
            f"seed {self.seed}",
        ]
        sections = [Section(*pair) for pair in zip(reports, studies, strict=True)]
        return Document(self.artifact.kind, facts, sections, self.notes)


@contextmanager
def _embedding(encoder: str | None) -> Iterator[Callable[[Sequence[str]], Floats]]:
    """Gives vectors [n, d] of prompts; without an encoder none are asked for."""
    from router.config import EncoderSettings
    from router.embedding import Encoder
    from training.embedding import VectorCache

    if encoder is None:
        yield _none
        return
    running = Encoder(EncoderSettings(model=encoder))
    running.load()
    try:
        yield VectorCache(running).embed
    finally:
        running.close()


def _none(prompts: Sequence[str]) -> Floats:
    raise AssertionError("a policy that reads no query needs no vectors")
