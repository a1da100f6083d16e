"""Newcomers: experts whose quality follows from what is said of the others and from a hundred labelled prompts."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from router.errors import ArtifactError
from router.steps.newcomers import Ground, Kinds, Labelled, Newcomers
from router.types import Estimate, Floats, Queries

KNOWN, SKILLS, KINDS = 6, 3, 4


@dataclass(frozen=True)
class World:
    """Prompts need skills, experts have them; `chance` [n, KNOWN + 1] has the newcomer last."""

    queries: Queries
    chance: Floats
    kind: Floats  # [n]

    def said(self, rows: slice) -> Estimate:
        """What a good policy says of the known experts."""
        chance = self.chance[rows, :KNOWN]
        tokens = np.broadcast_to(100.0 * (1 + np.arange(KNOWN)), chance.shape)
        return Estimate(quality=chance, std=np.full(chance.shape, 0.02), output_tokens=tokens)

    def asked(self, rows: slice) -> Queries:
        return Queries(self.queries.embeddings[rows], self.queries.input_tokens[rows])


def world(prompts: int = 3_000, own: float = 0.0, seed: int = 0) -> World:
    """`own`: how much better than its skills the newcomer is on one kind of prompts."""
    rng = np.random.default_rng(seed)
    kind = rng.integers(KINDS, size=prompts)
    needs = rng.normal(size=(KINDS, SKILLS))[kind] + 0.3 * rng.normal(size=(prompts, SKILLS))
    have = 0.6 + rng.normal(size=(SKILLS, KNOWN + 1))
    score = 0.7 * needs @ have + rng.normal(size=KNOWN + 1) * 0.5
    score[:, -1] += own * (kind == 0)
    vectors = np.eye(8, dtype=np.float32)[kind]
    return World(Queries(vectors, np.ones(prompts, np.float32)), 1 / (1 + np.exp(-score)), kind)


def sorting() -> Kinds:
    """Tells the world's kinds apart."""
    return Kinds.fit(9.0 * np.eye(8), np.zeros(8), world().queries)


def added(place: World, prompts: int, *, beside: bool = False, kinds: bool = True, seed: int = 1) -> Newcomers:
    """The newcomer after the first `prompts` were labelled; `beside`: with the known experts' scores."""
    rng, rows = np.random.default_rng(seed), slice(0, prompts)
    came = (rng.random(place.chance[rows].shape) < place.chance[rows]).astype(float)
    labelled = Labelled(
        queries=place.asked(rows),
        estimate=place.said(rows),
        observed=came[:, :KNOWN] if beside else np.full((prompts, KNOWN), np.nan),
        quality=came[:, KNOWN:],
        output_tokens=np.full((prompts, 1), 300.0),
    )
    return Newcomers.fit(Ground.fit(place.said(slice(1_000, 2_000)), [sorting()] if kinds else []), labelled)


JUDGED = slice(2_000, 3_000)


def estimated(step: Newcomers, place: World) -> Estimate:
    return step.apply(place.asked(JUDGED), place.said(JUDGED))


def missed(step: Newcomers, place: World) -> float:
    return float(np.sqrt(((estimated(step, place).quality[:, -1] - place.chance[JUDGED, -1]) ** 2).mean()))


def gain(place: World, said: Floats) -> float:
    """What choosing by `said` reaches on the judged prompts beyond the best single expert."""
    chance = place.chance[JUDGED]
    return float(
        np.take_along_axis(chance, said.argmax(axis=1)[:, None], axis=1).mean() - chance.mean(axis=0).max()
    )


def test_a_hundred_prompts_give_nearly_the_whole_gain() -> None:
    reached, mean_only, whole = 0.0, 0.0, 0.0
    for seed in range(8):
        place = world(seed=seed)
        said = estimated(added(place, 100, beside=True), place).quality
        reached += gain(place, said)
        said[:, -1] = said[:, -1].mean()
        mean_only += gain(place, said)
        whole += gain(place, place.chance[JUDGED])
    assert reached > 0.95 * whole > mean_only


def test_more_prompts_say_more() -> None:
    place = world()
    errors = [np.mean([missed(added(place, n, seed=seed), place) for seed in range(5)]) for n in (15, 100, 800)]
    assert errors[0] > errors[1] > errors[2]


def test_what_is_its_own_on_a_kind_of_prompts_is_learned_there() -> None:
    place = world(own=3.0)
    with_kinds, without = (missed(added(place, 400, kinds=kinds), place) for kinds in (True, False))
    assert with_kinds < 0.9 * without


def test_scores_of_known_experts_beside_its_own_make_it_better_known() -> None:
    errors = {}
    for beside in (False, True):
        luck = np.random.default_rng(5).normal(size=(3_000, 1))  # what no policy foretells is common to all experts
        found = []
        for seed in range(6):
            place = world(seed=seed)
            step = _lucky(place, 100, luck, beside, seed)
            found.append(missed(step, place))
        errors[beside] = np.mean(found)
    assert errors[True] < 0.9 * errors[False]


def _lucky(place: World, prompts: int, luck: Floats, beside: bool, seed: int) -> Newcomers:
    rows = slice(0, prompts)
    came = np.clip(place.chance[rows] + 0.4 * luck[rows], 0.0, 1.0)
    labelled = Labelled(
        queries=place.asked(rows),
        estimate=place.said(rows),
        observed=came[:, :KNOWN] if beside else np.full((prompts, KNOWN), np.nan),
        quality=came[:, KNOWN:],
        output_tokens=np.full((prompts, 1), np.nan),
    )
    return Newcomers.fit(Ground.fit(place.said(slice(1_000, 2_000)), [sorting()]), labelled)


def test_no_other_expert_is_estimated_otherwise() -> None:
    place = world()
    before, after = place.said(JUDGED), estimated(added(place, 100), place)
    for name in ("quality", "std", "output_tokens"):
        assert np.array_equal(getattr(after, name)[:, :KNOWN], getattr(before, name))


def test_estimates_stay_in_range() -> None:
    for seed in range(4):
        estimate = estimated(added(world(own=9.0, seed=seed), 30), world(own=9.0, seed=seed))
        assert estimate.quality.shape == estimate.std.shape == estimate.output_tokens.shape == (1_000, KNOWN + 1)
        assert (estimate.quality >= 0).all() and (estimate.quality <= 1).all()
        assert (estimate.std > 0).all() and (estimate.output_tokens > 0).all()


def test_its_uncertainty_is_about_its_error_and_falls_with_every_prompt() -> None:
    errors, stds = [], []
    for seed in range(6):
        place = world(seed=seed)
        step = added(place, 100, seed=seed)
        errors.append(missed(step, place))
        stds.append(float(estimated(step, place).std[:, -1].mean()))
    assert 0.6 < np.mean(stds) / np.mean(errors) < 2.0
    place = world()
    few, many = (float(estimated(added(place, n), place).std[:, -1].mean()) for n in (20, 400))
    assert many < 0.6 * few


def test_on_an_unlike_query_it_falls_back_as_the_others_do() -> None:
    place = world(own=3.0)
    step = added(place, 400)
    drawn = np.broadcast_to(step.ground.centre, (1_000, KNOWN))
    unlike = Estimate(drawn, np.full(drawn.shape, 0.2), np.ones(drawn.shape), familiarity=np.zeros(1_000))
    estimate = step.apply(place.asked(JUDGED), unlike)
    assert np.ptp(estimate.quality[:, -1]) < 1e-6
    assert estimate.std[:, -1].min() > 0.1


def test_its_answers_are_as_long_as_they_were_and_longer_where_the_others_are() -> None:
    place = world()
    step = added(place, 100)
    assert step.length[0] == pytest.approx(300.0, rel=0.05)
    usual = place.said(JUDGED)
    twice = Estimate(usual.quality, usual.std, usual.output_tokens * 2)
    assert step.apply(place.asked(JUDGED), twice).output_tokens[0, -1] == pytest.approx(2 * step.length[0])


def test_one_known_expert_is_ground_enough() -> None:
    place = world()
    one = Estimate(
        *(getattr(place.said(slice(0, 100)), name)[:, :1] for name in ("quality", "std", "output_tokens"))
    )
    labelled = Labelled(
        place.asked(slice(0, 100)),
        one,
        np.full((100, 1), np.nan),
        place.chance[:100, -1:],
        np.full((100, 1), np.nan),
    )
    estimate = Newcomers.fit(Ground.fit(one, []), labelled).apply(place.asked(slice(0, 100)), one)
    assert estimate.quality.shape == (100, 2)
    assert abs(estimate.quality[:, 1].mean() - place.chance[:100, -1].mean()) < 0.05


def test_what_was_stored_estimates_as_before() -> None:
    place = world()
    step = added(place, 100)
    restored = Newcomers.restored(step.state())
    before, after = estimated(step, place), estimated(restored, place)
    assert np.array_equal(before.quality, after.quality) and np.array_equal(before.std, after.std)
    assert restored.adds == 1


def test_a_missing_array_is_an_artifact_error() -> None:
    state: Mapping[str, Any] = added(world(), 50).state()
    for missing in state:
        with pytest.raises(ArtifactError):
            Newcomers.restored({name: array for name, array in state.items() if name != missing})
