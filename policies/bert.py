"""The BERT classifier: an encoder fine-tuned end to end on prompts, one head for the domain, one for the experts.

MoDEM: Mixture of Domain Expert Models (Simonds et al., 2024) fine-tunes an encoder to tell a prompt's domain. Here
a second head over the same vector foretells every expert's quality, and the encoder learns from both. Once trained
it needs no torch: the artifact carries the encoder's graph, weights and tokenizer (`router.text_model`).
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from router.artifact import nested, take, within
from router.category_budget import assigned, led_by
from router.effects import estimated, learn
from router.encoder_folder import open_folder
from router.errors import ConfigError, DataError
from router.features import SHARPNESS, domain_numbers
from router.fine_tuning import Lesson, Recipe, Tuned, tune
from router.policy import Policy
from router.pupil import Head, Pupil
from router.text_model import Reading, TextModel
from router.trust import Trust
from router.types import Floats, Outcomes, Queries

HELD_OUT = 0.15  # of the prompts: they stop the training, and say how far to trust it
FEWEST = 30  # prompts; of fewer, none can be spared


class Bert(Policy):
    """Which head is used, what it learns from, and how.

    `head`: `quality` is what both heads say of every expert, as far as each proved true. `domain` is MoDEM's table:
    the foretold shares of the domains times each expert's mean in the domain, with `pseudo_count` observations'
    worth of belief that it does there as it does everywhere. `composition` is the table of Composition of Experts
    (Jain et al., 2024): of the likeliest category alone. With a `budget`, a share of what the best single expert
    costs, one expert is assigned to each category so that all training prompts together stay within it, and
    estimates of better experts are put just below the assigned one's: then it is the choice, unless the price of
    quality makes a cheaper one. Without a budget estimates stay what they are, and the gate's price of quality, one
    for all categories, solves the same assignment.

    `encoder`: a Hugging Face model by name or folder; it reads `window` tokens of a prompt. `side` weighs the loss
    of the other head. `typos` and `masking` are the shares of prompts that are disguised in every epoch.
    """

    reads_query = False
    reads_text = True

    def __init__(
        self,
        *,
        head: Literal["quality", "domain", "composition"] = "quality",
        encoder: str = "all-MiniLM-L6-v2",
        window: int = 128,
        epochs: int = 4,
        rate: float = 1e-4,
        batch: int = 32,
        side: float = 0.2,
        class_weights: bool = True,
        typos: float = 0.0,
        masking: float = 0.0,
        pseudo_count: float = 10.0,
        budget: float | None = None,
        rng: int = 0,
    ) -> None:
        self.head = head
        self.encoder = encoder
        self.window = window
        self.epochs = epochs
        self.rate = rate
        self.batch = batch
        self.side = side
        self.class_weights = class_weights
        self.typos = typos
        self.masking = masking
        self.pseudo_count = pseudo_count
        self.budget = budget
        self.rng = rng

    def _check(self) -> None:
        if self.head not in ("quality", "domain", "composition"):
            raise ConfigError(f"head: {self.head!r} is not one of quality, domain, composition")
        for name in ("window", "epochs", "batch", "rate", "pseudo_count"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name}: {getattr(self, name)} is not above 0")
        for name in ("side", "typos", "masking"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name}: {getattr(self, name)} is not within 0..1")
        if self.budget is not None and (self.head != "composition" or not self.budget > 0):
            raise ConfigError(f"budget: {self.budget} must be above 0, and belongs to the head composition")

    def _fit(self, outcomes: Outcomes) -> None:
        self._check()
        prompts = outcomes.queries.prompts
        if prompts is None:
            raise DataError("the policy bert learns from prompts, and these outcomes have none")
        folder = open_folder(self.encoder, plain=True)
        window = min(self.window, folder.window)
        reading = Reading(folder.tokenizer.read_bytes(), window, folder.pad_id, folder.prefix, folder.lowercase)
        pupil = Pupil(folder, reading)
        labels = self._labels(outcomes.queries, pupil)
        lesson = Lesson(prompts, outcomes.quality, labels, int(labels.max()) + 1)
        held = np.zeros(len(prompts), dtype=bool)
        if len(held) >= FEWEST:
            held[np.random.default_rng(self.rng).permutation(len(held))[: round(HELD_OUT * len(held))]] = True
        tuned = tune(pupil, lesson, held, self._recipe(), self.rng)
        self.text_ = TextModel.packed(tuned.model, reading)
        self._judge(tuned, lesson, held)
        self.table_, self.evidence_ = self._tabulated(lesson.quality, labels, lesson.classes)
        if self.budget is not None:
            self.table_ = self._within_budget(outcomes, labels)

    def _judge(self, tuned: Tuned, lesson: Lesson, held: NDArray[np.bool_]) -> None:
        """Holds the heads against what they did not learn from."""
        spared = lesson.part(held)
        vectors = self.text_.vectors(spared.prompts)
        self.heads_ = {"domain": tuned.domain.times(_sharpness(tuned.domain.scores(vectors), spared.labels))}
        if self.head == "quality":
            self.heads_["quality"] = tuned.quality
            self.table_, self.evidence_ = self._tabulated(
                lesson.quality[~held], lesson.labels[~held], lesson.classes
            )
            mean = np.nanmean(lesson.quality, axis=0)
            self.trust_ = Trust.earned(
                self._guesses(vectors), spared.quality, mean, np.random.default_rng(self.rng)
            )

    def _recipe(self) -> Recipe:
        quality, domain = (1.0, self.side) if self.head == "quality" else (self.side, 1.0)
        return Recipe(
            quality=quality,
            domain=domain,
            epochs=self.epochs,
            rate=self.rate,
            batch=self.batch,
            class_weights=self.class_weights,
            typos=self.typos,
            masking=self.masking,
        )

    def _labels(self, queries: Queries, pupil: Pupil) -> NDArray[np.intp]:
        """Each prompt's domain; where the data name none, its cluster by the encoder as it was."""
        named = queries.domains is not None and len(set(queries.domains)) > 1
        vectors = np.zeros((len(queries), 0), np.float32) if named else pupil.vectors(queries.prompts or ())
        return domain_numbers(replace(queries, embeddings=vectors), np.random.default_rng(self.rng))

    def _tabulated(self, quality: Floats, labels: NDArray[np.intp], classes: int) -> tuple[Floats, Floats]:
        """What every expert reaches in each domain and the evidence for it, both [C, K]."""
        found = learn([np.eye(classes, dtype=np.float32)[labels]], quality, self.pseudo_count)
        return found.mean + found.effects[0], found.count + np.float32(self.pseudo_count)

    def _within_budget(self, outcomes: Outcomes, labels: NDArray[np.intp]) -> Floats:
        """The table, led in each domain by the expert that is assigned to it."""
        assert self.budget is not None
        priced = np.isfinite(outcomes.cost_usd).any(axis=0)
        if not priced.any():
            raise DataError("a budget needs costs, and these outcomes have none")
        spent, _ = self._tabulated(outcomes.cost_usd, labels, len(self.table_))
        best = int(np.where(priced, np.nanmean(outcomes.quality, axis=0), -1.0).argmax())
        budget = self.budget * float(np.nanmean(outcomes.cost_usd[:, best]))
        share = np.bincount(labels, minlength=len(self.table_)) / len(labels)
        return led_by(assigned(self.table_, np.where(priced, spent, np.nan), share, budget), self.table_)

    def described(self, queries: Queries) -> Queries:
        if queries.features is not None:
            return queries
        if queries.prompts is None:
            raise DataError("the policy bert reads prompts, and these queries have none")
        return replace(queries, features=self.text_.vectors(queries.prompts))

    def _predict(self, queries: Queries) -> tuple[Floats, Floats]:
        vectors = queries.features
        assert vectors is not None
        if vectors.shape[1] != len(self.heads_["domain"].weights):
            raise DataError(
                "the policy bert reads prompts with an encoder of its own: it cannot be part of another"
            )
        if self.head == "quality":
            return self.trust_.kept(self._guesses(vectors))
        share = self._shares(vectors)
        if self.head == "composition":
            share = np.eye(share.shape[1], dtype=np.float32)[share.argmax(axis=1)]
        return estimated(share @ self.table_, share @ self.evidence_)

    def _shares(self, vectors: Floats) -> Floats:
        return _softmax(self.heads_["domain"].scores(vectors))

    def _guesses(self, vectors: Floats) -> Floats:
        """What each head says of the experts, [2, n, K]."""
        scores = np.clip(self.heads_["quality"].scores(vectors), -30.0, 30.0)
        return np.stack([1.0 / (1.0 + np.exp(-scores)), self._shares(vectors) @ self.table_])

    def state(self) -> dict[str, NDArray[Any]]:
        arrays = {"table": self.table_, "evidence": self.evidence_, **nested("text", self.text_.state())}
        for name, head in self.heads_.items():
            arrays |= nested(name, head.state())
        return arrays | (nested("trust", self.trust_.state()) if self.head == "quality" else {})

    def restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        experts = len(self.experts_)
        self.table_ = take(state, "table", (None, experts))
        self.evidence_ = take(state, "evidence", self.table_.shape)
        self.heads_ = {"domain": Head.restored(within("domain", state), len(self.table_))}
        if self.head == "quality":
            self.heads_["quality"] = Head.restored(within("quality", state), experts)
            self.trust_ = Trust.restored(within("trust", state), 2, experts)
        self.text_ = TextModel(within("text", state))


def _sharpness(scores: Floats, labels: NDArray[np.intp]) -> float:
    """The factor under which prompts that were held out are likeliest to be of their domains; 1 without any."""
    if not len(scores):
        return 1.0
    own = np.arange(len(scores)), labels
    likelihood = [np.log(_softmax(scores * factor)[own] + 1e-9).mean() for factor in SHARPNESS]
    return SHARPNESS[int(np.argmax(likelihood))]


def _softmax(scores: Floats) -> Floats:
    raised = np.exp(scores - scores.max(axis=1, keepdims=True))
    return np.asarray(raised / raised.sum(axis=1, keepdims=True))
