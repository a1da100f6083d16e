"""Randomised and boosted trees: grown with scikit-learn, asked with numpy.

Extremely randomised trees (Geurts, Ernst and Wehenkel, 2006) stand beside each other; of stochastic gradient
boosting (Friedman, 2002) each learns what those before it leave.

A served forest is a few flat arrays, so serving needs neither scikit-learn nor pickles.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from router.errors import ArtifactError
from router.types import Floats

CHUNK = 512  # rows asked at once
LOOK = 4  # levels between two looks at whether every tree has come to a leaf


@dataclass(frozen=True)
class Growth:
    """`trees`; rows in each `leaf`, at least; `share` of the features among which a split is chosen."""

    trees: int
    leaf: int
    share: float


@dataclass(frozen=True)
class Boosting:
    """`trees` of at most `depth` splits in a row, each learning `rate` of what is left, on a `part` of the rows."""

    trees: int
    depth: int
    leaf: int
    share: float
    rate: float
    part: float = 0.5


class Grove:
    """Forests over the same features, asked at once: on one query numpy's own time is that of one of them.

    A node lies beside its sibling: a row goes on to `left` [N], or to the next where its feature is above the cut.
    A leaf leads to itself.
    """

    def __init__(self, forests: Sequence["Forest"]) -> None:
        parts, roots, first = [], [], 0
        for forest in forests:
            feature, cut, left, leaf = _beside(forest.arrays)
            roots.append(first + np.arange(len(forest.arrays["root"])))
            parts.append((feature, cut, left + first, leaf))
            first += len(left)
        self._feature, self._cut, self._left, self._leaf = (np.concatenate(own) for own in zip(*parts, strict=True))
        self._inner = self._leaf < 0
        self._roots = np.concatenate(roots)
        self._ends = np.cumsum([len(own) for own in roots])[:-1]
        self._values = [forest.values for forest in forests]
        self._depth = max(forest.depth for forest in forests)

    def predict(self, features: Floats) -> list[Floats]:
        """Each forest's mean over its trees, [n, outputs], for `features` [n, F] float32."""
        starts = range(0, max(len(features), 1), CHUNK)
        chunks = [self._means(features[start : start + CHUNK]) for start in starts]
        return chunks[0] if len(chunks) == 1 else [np.concatenate(own) for own in zip(*chunks, strict=True)]

    def _means(self, features: Floats) -> list[Floats]:
        rows, width = features.shape
        flat = np.ascontiguousarray(features, dtype=np.float32).ravel()
        at = self._roots if rows == 1 else np.tile(self._roots, rows)
        offset = None if rows == 1 else np.repeat(np.arange(rows) * width, len(self._roots))
        for level in range(self._depth):
            if level % LOOK == 0 and not self._inner.take(at).any():
                break
            feature = self._feature.take(at)
            value = flat.take(feature if offset is None else feature + offset)
            at = self._left.take(at) + (value > self._cut.take(at))
        leaves = np.split(self._leaf.take(at).reshape(rows, -1), self._ends, axis=1)
        return [
            np.asarray(values.take(own.ravel(), axis=0).reshape(*own.shape, -1).mean(axis=1))
            for values, own in zip(self._values, leaves, strict=True)
        ]


def _beside(arrays: Mapping[str, NDArray[Any]]) -> tuple[NDArray[Any], ...]:
    """One forest's features, cuts, left children and leaves, the roots first; -1 where a node is no leaf."""
    child = arrays["child"].reshape(-1, 2).astype(np.intp)
    inner = np.flatnonzero((child != np.arange(len(child))[:, None]).any(axis=1))
    order = np.concatenate([arrays["root"].astype(np.intp), child[inner].ravel()])
    left = np.full(len(child), -1)
    left[inner] = len(arrays["root"]) + 2 * np.arange(len(inner))
    left = left[order]
    is_leaf = left < 0
    return (
        arrays["feature"].astype(np.intp)[order],
        np.where(is_leaf, np.float32(np.inf), arrays["cut"][order]),
        np.where(is_leaf, np.arange(len(order)), left),
        np.where(is_leaf, arrays["leaf"].astype(np.intp)[order], -1),
    )


class Forest:
    """The nodes of all trees one after the other, as they are stored; a leaf's children are itself.

    `feature` [N] and `cut` [N]: a row goes right where its feature is above the cut. `child` [2 N]: left and right.
    `leaf` [N] is a leaf's row in `values` [leaves, outputs]. `root` [T].
    """

    def __init__(self, arrays: Mapping[str, NDArray[Any]], depth: int) -> None:
        self.arrays = dict(arrays)
        self.depth = depth
        self.values = self.arrays["values"].astype(np.float32)

    @cached_property
    def _alone(self) -> Grove:
        return Grove([self])

    def predict(self, features: Floats) -> Floats:
        """The mean over the trees, [n, outputs], for `features` [n, F]."""
        return self._alone.predict(features)[0]

    def state(self) -> dict[str, NDArray[Any]]:
        return {**self.arrays, "depth": np.array([self.depth], dtype=np.int32)}

    @classmethod
    def restored(cls, state: Mapping[str, NDArray[Any]], features: int, outputs: int) -> "Forest":
        """Takes back what `state` gave. Raises `ArtifactError` for arrays that are no forest over `features`."""
        wanted = ("feature", "cut", "child", "leaf", "root", "values", "depth")
        if missing := [name for name in wanted if name not in state]:
            raise ArtifactError(f"the array {missing[0]!r} of a forest is missing")
        arrays = {name: np.asarray(state[name]) for name in wanted[:-1]}
        nodes, values = len(arrays["feature"]), arrays["values"]
        bounds = {"feature": features, "child": nodes, "leaf": len(values), "root": nodes}
        sizes = {"cut": nodes, "child": 2 * nodes, "leaf": nodes}
        for name, size in sizes.items():
            if arrays[name].shape != (size,):
                raise ArtifactError(f"a forest's {name!r} has the shape {list(arrays[name].shape)}, not [{size}]")
        if values.ndim != 2 or values.shape[1] != outputs:
            raise ArtifactError(
                f"a forest's 'values' have the shape {list(values.shape)}, expected [any, {outputs}]"
            )
        for name, bound in bounds.items():
            places = arrays[name]
            if places.ndim != 1 or not len(places) or not 0 <= places.min() <= places.max() < bound:
                raise ArtifactError(f"a forest's {name!r} points outside its {bound} places")
        return cls(arrays, int(state["depth"].ravel()[0]))


def grow(features: Floats, target: Floats, growth: Growth, seed: int) -> tuple[Forest, Floats]:
    """A forest for `target` [n, outputs], and its out-of-bag predictions [n, outputs].

    Needs scikit-learn (the extra `train`). A row that no tree left out is predicted by the target's mean.
    """
    from sklearn.ensemble import ExtraTreesRegressor

    model = ExtraTreesRegressor(
        growth.trees,
        min_samples_leaf=growth.leaf,
        max_features=growth.share,
        bootstrap=True,
        max_samples=max(1, round(0.9 * len(target))),
        n_jobs=2,
        random_state=seed,
    ).fit(features, target if target.shape[1] > 1 else target[:, 0])
    forest = packed([tree.tree_ for tree in model.estimators_])
    total, count = np.zeros(target.shape), np.zeros(len(target))
    for tree, drawn in zip(model.estimators_, model.estimators_samples_, strict=True):
        out = np.ones(len(target), dtype=bool)
        out[drawn] = False
        if out.any():
            total[out] += tree.predict(features[out]).reshape(int(out.sum()), -1)
            count[out] += 1
    honest = np.where(count[:, None] > 0, total / np.maximum(count, 1)[:, None], target.mean(axis=0))
    return forest, honest


def boost(features: Floats, target: Floats, how: Boosting, seed: int) -> Iterator[Any]:
    """scikit-learn's trees one after the other, each of all the outputs of `target` [n, outputs].

    What they foretell is `rate` times their sum. Needs scikit-learn (the extra `train`).
    """
    from sklearn.tree import DecisionTreeRegressor

    rng = np.random.default_rng(seed)
    left = target.astype(np.float64)
    for _ in range(how.trees):
        rows = np.flatnonzero(rng.random(len(left)) < how.part)
        tree = DecisionTreeRegressor(
            max_depth=how.depth,
            min_samples_leaf=how.leaf,
            max_features=how.share,
            random_state=int(rng.integers(2**31)),
        ).fit(features[rows] if len(rows) else features, left[rows] if len(rows) else left)
        left -= how.rate * tree.predict(features).reshape(left.shape)
        yield tree


def packed(trees: list[Any]) -> Forest:
    """scikit-learn's fitted `tree_` objects as one forest."""
    parts: dict[str, list[NDArray[Any]]] = {n: [] for n in ("feature", "cut", "child", "leaf", "root", "values")}
    nodes, leaves, depth = 0, 0, 0
    for tree in trees:
        own = np.arange(tree.node_count)
        is_leaf = tree.children_left < 0
        left, right = (np.where(is_leaf, own, c) + nodes for c in (tree.children_left, tree.children_right))
        row = np.zeros(tree.node_count, dtype=np.int32)
        row[is_leaf] = leaves + np.arange(int(is_leaf.sum()))
        parts["feature"].append(np.where(is_leaf, 0, tree.feature).astype(np.int16))
        parts["cut"].append(_rounded_down(tree.threshold))
        parts["child"].append(np.stack([left, right], axis=1).ravel().astype(np.int32))
        parts["leaf"].append(row)
        parts["root"].append(np.array([nodes], dtype=np.int32))
        parts["values"].append(tree.value[is_leaf, :, 0].astype(np.float16))
        nodes, leaves, depth = nodes + tree.node_count, leaves + int(is_leaf.sum()), max(depth, tree.max_depth)
    return Forest({name: np.concatenate(arrays) for name, arrays in parts.items()}, depth)


def _rounded_down(cuts: NDArray[np.float64]) -> Floats:
    """The largest float32 not above: a float32 feature then falls on the same side of it."""
    near = cuts.astype(np.float32)
    return np.where(near > cuts, np.nextafter(near, np.float32(-np.inf)), near)
