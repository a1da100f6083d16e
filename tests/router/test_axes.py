"""The main axes of vectors."""

import numpy as np

from router.axes import main_axes


def test_the_strongest_axes_come_first_and_stand_at_right_angles() -> None:
    rng = np.random.default_rng(0)
    vectors = (rng.normal(size=(400, 6)) * [0.1, 3.0, 0.2, 1.0, 0.1, 0.1] + 5.0).astype(np.float32)
    axes = main_axes(vectors, 2)
    assert np.abs(axes).argmax(axis=0).tolist() == [1, 3]
    assert np.allclose(axes.T @ axes, np.eye(2), atol=1e-5)


def test_there_are_no_more_axes_than_columns() -> None:
    assert main_axes(np.eye(3, dtype=np.float32), 10).shape == (3, 3)
