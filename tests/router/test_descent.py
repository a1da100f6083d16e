"""Gradients against finite differences, and what training does with prompts that it holds out."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from policies.attention import Listeners
from policies.cosine import Sphere
from policies.factorization import Responses
from policies.mlp import Trunk
from policies.prototype import Nearness
from router.descent import Descent, Net, cross_entropy, descend, sigmoid, unevenness
from router.types import Floats

NETS: dict[str, Net] = {
    "attention": Listeners(3),
    "cosine": Sphere(3),
    "factorization": Responses(2),
    "mlp": Trunk(7),
    "prototype": Nearness(2, 0.5),
}
WIDTH, EXPERTS = 5, 4


def prompts(rows: int = 12, seed: int = 0) -> tuple[Floats, Floats]:
    """A design, and qualities some of which are fractions and a third unobserved."""
    rng = np.random.default_rng(seed)
    quality = rng.choice([0.0, 0.3, 1.0, np.nan], size=(rows, EXPERTS), p=[0.3, 0.1, 0.3, 0.3])
    return rng.normal(size=(rows, WIDTH)), quality


def perturbed(net: Net) -> dict[str, Floats]:
    """Parameters away from where they start, some of which are zero, in double precision."""
    rng = np.random.default_rng(1)
    start = net.start(WIDTH, np.zeros(EXPERTS, np.float32), rng)
    return {name: array + 0.3 * rng.normal(size=array.shape) for name, array in start.items()}


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("balance", [0.0, 0.7])
def test_the_gradient_is_that_of_the_loss(name: str, balance: float) -> None:
    net = NETS[name]
    parameters = perturbed(net)
    design, quality = prompts()
    _, slopes = net.loss(parameters, design, quality, balance)
    assert slopes.keys() == parameters.keys() == net.axes.keys()
    rng = np.random.default_rng(2)
    for key, array in parameters.items():
        assert slopes[key].shape == array.shape and array.ndim == len(net.axes[key])
        way = rng.normal(size=array.shape)
        ahead, behind = (
            net.loss({**parameters, key: array + step * way}, design, quality, balance)[0] for step in (1e-5, -1e-5)
        )
        assert (ahead - behind) / 2e-5 == pytest.approx(float((slopes[key] * way).sum()), rel=1e-4, abs=1e-7), key


def learnable(rows: int = 200, seed: int = 0) -> tuple[Floats, Floats]:
    """Qualities of which the first column of the design tells much, one expert the opposite of the others."""
    rng = np.random.default_rng(seed)
    design = rng.normal(size=(rows, WIDTH)).astype(np.float32)
    chance = sigmoid(3.0 * design[:, :1] * np.array([1.0, 1.0, 1.0, -1.0]))
    return design, (rng.random(chance.shape) < chance).astype(float)


def held_part(rows: int) -> NDArray[np.bool_]:
    return np.arange(rows) % 5 == 0


@pytest.mark.parametrize("name", NETS)
def test_training_finds_what_there_is_to_find(name: str) -> None:
    design, quality = learnable()
    held = held_part(len(design))
    weights, loss = descend(NETS[name], design, quality, held, Descent(decay=0.1), np.random.default_rng(0))
    start = NETS[name].start(WIDTH, np.zeros(EXPERTS, np.float32), np.random.default_rng(0))
    before = cross_entropy(NETS[name].logits(start, design[held])[0], quality[held])[0]
    assert loss == cross_entropy(NETS[name].logits(weights, design[held])[0], quality[held])[0]
    assert loss < 0.85 * before


def test_training_stops_where_the_held_out_prompts_no_longer_gain() -> None:
    design, _ = learnable()
    noise = np.random.default_rng(3).integers(2, size=(len(design), EXPERTS)).astype(float)
    held = held_part(len(design))
    net = Trunk(64)
    short = descend(net, design, noise, held, Descent(decay=0.0, epochs=30, patience=5), np.random.default_rng(0))
    long = descend(net, design, noise, held, Descent(decay=0.0, epochs=300, patience=5), np.random.default_rng(0))
    assert short[1] == long[1]
    assert all(np.array_equal(short[0][name], long[0][name]) for name in short[0])


def test_an_unobserved_cell_teaches_nothing() -> None:
    logits = np.array([[0.3, -1.0], [2.0, 0.5]])
    quality = np.array([[1.0, np.nan], [np.nan, 0.25]])
    value, slope = cross_entropy(logits, quality)
    chance = sigmoid(logits)
    wrong = [-np.log(chance[0, 0]), -0.25 * np.log(chance[1, 1]) - 0.75 * np.log(1.0 - chance[1, 1])]
    assert value == pytest.approx(np.mean(wrong))
    assert slope[0, 1] == slope[1, 0] == 0.0


def test_with_every_expert_dropped_nothing_is_learned() -> None:
    design, quality = learnable()
    held, how = held_part(len(design)), Descent(epochs=2, decay=0.0)
    losses = [
        descend(Trunk(7), design, quality, held, replace(how, dropout=dropout), np.random.default_rng(0))[1]
        for dropout in (0.0, 0.5, 1.0)
    ]
    assert losses[0] < losses[1] < losses[2]
    assert (
        losses[2] == descend(Trunk(7), design, quality, held, replace(how, epochs=0), np.random.default_rng(0))[1]
    )


def test_a_disturbed_design_is_trained_to_say_less() -> None:
    design, quality = learnable()
    held = held_part(len(design))
    spread = []
    for noise in (0.0, 3.0):
        weights, _ = descend(Trunk(16), design, quality, held, Descent(noise=noise), np.random.default_rng(0))
        spread.append(Trunk(16).logits(weights, design)[0].std())
    assert spread[1] < 0.7 * spread[0]


def test_even_shares_cost_nothing_and_a_favourite_does() -> None:
    even, favourite = np.zeros((3, EXPERTS)), np.tile([9.0, 0.0, 0.0, 0.0], (3, 1))
    assert unevenness(even)[0] == pytest.approx(0.0)
    assert unevenness(favourite)[0] == pytest.approx(EXPERTS - 1.0, rel=0.01)
