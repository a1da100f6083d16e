"""The main axes of vectors: the few directions that hold most of what they differ in."""

import numpy as np

from router.types import Floats


def main_axes(vectors: Floats, most: int) -> Floats:
    """Orthonormal columns [d, at most `most`], strongest first."""
    centred = (vectors - vectors.mean(axis=0)).astype(np.float64)
    size, axes = np.linalg.eigh(centred.T @ centred)
    return np.ascontiguousarray(axes[:, np.argsort(-size)[:most]], dtype=np.float32)
