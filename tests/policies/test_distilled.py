"""The student answers as its teacher does, from the vector alone."""

from dataclasses import replace

import numpy as np
import pytest

from policies import policy_class
from policies.distilled import Distilled
from router.errors import ConfigError
from router.types import Outcomes, Queries

TEACHER = {"kind": "domain"}


def outcomes(rows: int = 600, seed: int = 0) -> Outcomes:
    """Three kinds of prompts; each expert is best at one, and writes most there."""
    rng = np.random.default_rng(seed)
    kind = rng.integers(3, size=rows)
    vectors = (np.eye(3, 8)[kind] + 0.1 * rng.normal(size=(rows, 8))).astype(np.float32)
    own = kind[:, None] == np.arange(3)
    queries = Queries(
        embeddings=vectors,
        input_tokens=np.ones(rows),
        prompts=tuple(f"{'abc'[k] * 5} {i}" for i, k in enumerate(kind)),
        domains=tuple(str(k) for k in kind),
    )
    quality = (rng.random((rows, 3)) < np.where(own, 0.9, 0.4)).astype(float)
    tokens = np.where(own, 400.0, 100.0)
    return Outcomes(queries, ("a", "b", "c"), quality, tokens / 1e6, tokens)


def test_a_students_route_is_seldom_another_than_its_teachers() -> None:
    trained, held_out = outcomes(), outcomes(300, seed=1).queries
    teacher = policy_class("domain")().fit(trained).predict(held_out).quality
    blind = replace(held_out, prompts=None, domains=None)
    student = Distilled(teacher=TEACHER).fit(trained).predict(blind).quality
    assert (teacher.argmax(axis=1) != student.argmax(axis=1)).mean() < 0.03
    assert np.abs(teacher - student).mean() < 0.06


def test_a_student_foretells_lengths_as_its_teacher_does() -> None:
    teacher = {"kind": "forest", "trees": 2, "length_trees": 2}
    lengths = Distilled(teacher=teacher).fit(outcomes(200)).predict(outcomes(200, seed=1).queries).output_tokens
    own = np.array(outcomes(200, seed=1).queries.domains)[:, None] == np.array(["0", "1", "2"])
    assert lengths[own].mean() > 1.7 * lengths[~own].mean()
    assert (lengths > 0).all()


@pytest.mark.parametrize("wrong", [{}, {"kind": "oracle"}, {"kind": "domain", "leaves": 3}])
def test_a_teacher_that_cannot_be_built_is_named(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=r"teacher|oracle"):
        Distilled(teacher=wrong).fit(outcomes(30))
