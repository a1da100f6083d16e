"""An encoder is fine-tuned end to end: one pooled vector, two heads, the domain and every expert's quality.

Knows nothing of policies or of serving.
"""

import logging
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from router.augmentation import with_masks, with_typos
from router.errors import ConfigError
from router.pupil import EVALUATED, Head, Pupil, by_length
from router.types import Floats

WARM_UP = 0.1  # share of the steps in which the rate of learning rises
HEAD_RATE = 20.0  # times the encoder's rate
DECAY = 0.01
LONGEST_STEP = 1.0  # of the gradient
PATIENCE = 2  # epochs without a better loss on what is held out
LARGEST_WEIGHT = 5.0  # of a class, and one over it the smallest
SHUFFLED = 8  # batches whose prompts are sorted by length together

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Lesson:
    """What is learned: the `quality` [n, K] of the experts, NaN where unobserved, and each prompt's class [n]."""

    prompts: Sequence[str]
    quality: Floats
    labels: NDArray[np.intp]
    classes: int  # 1: there is no domain to tell

    def part(self, rows: NDArray[np.bool_]) -> "Lesson":
        prompts = [prompt for prompt, kept in zip(self.prompts, rows, strict=True) if kept]
        return Lesson(prompts, self.quality[rows], self.labels[rows], self.classes)


@dataclass(frozen=True)
class Recipe:
    """`domain` and `quality` weigh the losses of the heads; `typos` and `masking` are shares of the prompts."""

    domain: float
    quality: float
    epochs: int
    rate: float
    batch: int
    class_weights: bool
    typos: float
    masking: float


@dataclass(frozen=True)
class Tuned:
    """The encoder's `openvino.Model`, and its heads."""

    model: Any
    quality: Head
    domain: Head


def tune(pupil: Pupil, lesson: Lesson, held: NDArray[np.bool_], recipe: Recipe, seed: int) -> Tuned:
    """Fits the pupil to what is not `held` [n]; its weights are those of the epoch that did best on what is.

    Where nothing is held out, those of the last epoch.
    """
    torch = pupil.torch
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(seed)
        return _Course(pupil, lesson.part(~held), recipe, seed).taken(lesson.part(held))


class _Course:
    def __init__(self, pupil: Pupil, lesson: Lesson, recipe: Recipe, seed: int) -> None:
        torch = pupil.torch
        self.torch, self.pupil, self.lesson, self.recipe = torch, pupil, lesson, recipe
        self.order, self.draw = np.random.default_rng(seed), random.Random(seed)
        self.weights = torch.tensor(_class_weights(lesson, recipe.class_weights)).to(pupil.device)
        pupil.attach(lesson.quality.shape[1], lesson.classes)
        with torch.no_grad():
            seen = np.isfinite(lesson.quality)
            mean = (np.where(seen, lesson.quality, 0).sum(axis=0) + 0.5) / (seen.sum(axis=0) + 1)
            pupil.heads[0].bias.copy_(torch.tensor(np.log(mean / (1 - mean))))
        self.optimiser = torch.optim.AdamW(self._groups(), weight_decay=DECAY, fused=True)
        self.scaler = torch.amp.GradScaler(pupil.device, enabled=pupil.half is torch.float16)
        self.steps = recipe.epochs * -(-len(lesson.prompts) // recipe.batch)
        self.step = 0

    def _groups(self) -> list[dict[str, Any]]:
        own = [p for p in self.pupil.encoder.parameters() if p.requires_grad]
        return [
            {"params": [p for p in own if p.ndim > 1], "share": 1.0},
            {"params": [p for p in own if p.ndim <= 1], "share": 1.0, "weight_decay": 0.0},
            {"params": list(self.pupil.heads.parameters()), "share": HEAD_RATE},
        ]

    def taken(self, held: Lesson) -> Tuned:
        losses: list[float] = []
        best: Any = None
        for epoch in range(self.recipe.epochs):
            self._epoch()
            if not held.prompts:
                continue
            losses.append(self._loss_on(held))
            if not np.isfinite(losses[-1]):
                raise ConfigError(f"rate: {self.recipe.rate} is too high, the training diverged")
            log.info("epoch %d of %d: loss %.4f on what is held out", epoch + 1, self.recipe.epochs, losses[-1])
            if losses[-1] == min(losses):
                best = [
                    {name: value.detach().clone() for name, value in part.state_dict().items()}
                    for part in (self.pupil.encoder, self.pupil.heads)
                ]
            elif len(losses) - int(np.argmin(losses)) > PATIENCE:
                break
        if best is not None:
            self.pupil.encoder.load_state_dict(best[0])
            self.pupil.heads.load_state_dict(best[1])
        self.pupil.heads.eval()
        return Tuned(self.pupil.graph(), self.pupil.head(0), self.pupil.head(1))

    def _epoch(self) -> None:
        lesson, pupil = self.lesson, self.pupil
        pupil.encoder.train()
        pupil.heads.train()
        rows = pupil.rows([self._disguised(prompt) for prompt in lesson.prompts])
        for part in _shuffled(rows, self.recipe.batch, self.order):
            self.step += 1
            share = min(self.step / max(WARM_UP * self.steps, 1), (self.steps + 1 - self.step) / self.steps)
            for group in self.optimiser.param_groups:
                group["lr"] = self.recipe.rate * group["share"] * max(share, 0.0)
            loss = self._loss(pupil.scores([rows[i] for i in part]), lesson, part)
            if not loss.requires_grad:  # nothing was observed of these prompts
                continue
            self.scaler.scale(loss).backward()
            self.scaler.unscale_(self.optimiser)
            self.torch.nn.utils.clip_grad_norm_(pupil.encoder.parameters(), LONGEST_STEP)
            self.scaler.step(self.optimiser)
            self.scaler.update()
            self.optimiser.zero_grad()

    def _disguised(self, prompt: str) -> str:
        if self.draw.random() < self.recipe.masking:
            prompt = with_masks(prompt, self.draw)
        return with_typos(prompt, self.draw) if self.draw.random() < self.recipe.typos else prompt

    def _loss(self, scores: Sequence[Any], lesson: Lesson, part: NDArray[np.intp]) -> Any:
        """Of both heads over the observed cells of some rows."""
        loss, torch = self.torch.nn.functional, self.torch
        quality = torch.from_numpy(lesson.quality[part].astype(np.float32)).to(self.pupil.device)
        seen = torch.isfinite(quality)
        total = torch.zeros((), device=self.pupil.device)
        if self.recipe.quality and seen.any():
            missed = loss.binary_cross_entropy_with_logits(scores[0][seen], quality[seen])
            total = total + self.recipe.quality * missed
        if self.recipe.domain and lesson.classes > 1:
            labels = torch.from_numpy(lesson.labels[part].astype(np.int64)).to(self.pupil.device)
            total = total + self.recipe.domain * loss.cross_entropy(scores[1], labels, self.weights)
        return total

    def _loss_on(self, held: Lesson) -> float:
        self.pupil.encoder.eval()
        self.pupil.heads.eval()
        rows = self.pupil.rows(held.prompts)
        total = 0.0
        with self.torch.no_grad():
            for part in by_length(rows, EVALUATED):
                total += len(part) * float(self._loss(self.pupil.scores([rows[i] for i in part]), held, part))
        return total / len(rows)


def _class_weights(lesson: Lesson, wanted: bool) -> Floats:
    """The rarer a class, the heavier its prompts, [C]."""
    count = np.bincount(lesson.labels, minlength=lesson.classes)
    if not wanted or not count.any():
        return np.ones(lesson.classes, dtype=np.float32)
    weight = count.sum() / (lesson.classes * np.maximum(count, 1))
    return np.asarray(np.clip(weight, 1 / LARGEST_WEIGHT, LARGEST_WEIGHT), dtype=np.float32)


def _shuffled(rows: Sequence[Sequence[int]], size: int, rng: np.random.Generator) -> list[NDArray[np.intp]]:
    """Every row once, in batches of rows that are about as long as one another."""
    order = rng.permutation(len(rows))
    parts: list[NDArray[np.intp]] = []
    for start in range(0, len(order), SHUFFLED * size):
        near = sorted(order[start : start + SHUFFLED * size], key=lambda row: len(rows[row]))
        parts += [np.array(near[at : at + size]) for at in range(0, len(near), size)]
    return [parts[at] for at in rng.permutation(len(parts))]
