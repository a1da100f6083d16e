"""What a policy reads of a prompt beside its vector: topics of its words, counts, and the domain it seems to be of.

Words are hashed, weighted by rarity and projected on the training prompts' main directions (latent semantic
analysis, Deerwester et al., 1990); nothing of the prompts is kept. Domains are told apart by ridge regression on
all of it, so that a training prompt's domain is foretold by a fit to the others.
"""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from router.artifact import nested, take, within
from router.clustering import SAMPLE, half_norms
from router.errors import ArtifactError
from router.languages import NAMES, language_numbers
from router.policy import Policy
from router.prompt_counts import BITS, buckets, context_numbers, counts, shortened
from router.ridge import ridge
from router.types import Context, Floats, Outcomes, Queries

TOPICS = 128
LEAST_PROMPTS = 2  # that a word must be in
PSEUDO_DOMAINS = 24  # clusters that stand for domains where the data name none
SHARPNESS = (1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0)  # of the posterior, tried in turn
OTHER_LANGUAGES = 0.08  # of the prompts, from which on the language is read; of English, .05 may look like another
LANGUAGES, CONTEXTS = len(NAMES), len(context_numbers(Context()))
COUNT_RANGE = 4.0  # standard deviations beyond which a count says no more


class Blocks(NamedTuple):
    """The columns of `Queries.features`."""

    topics: slice
    counts: slice
    domains: slice


class Reader:
    """Makes features [n, F] of queries. Without prompts, the topics and counts are the average prompt's: zero."""

    def fit(self, queries: Queries, seed: int) -> Floats:
        """Learns from the training queries; returns their features, domains as foretold from the others' labels."""
        rng = np.random.default_rng(seed)
        self._no_prompts()
        if queries.prompts is not None:
            found = [buckets(prompt) for prompt in queries.prompts]
            numbers = np.array([counts(prompt) for prompt in queries.prompts])
            languages = np.array([language_numbers(shortened(prompt)) for prompt in queries.prompts])
            if _several(languages):
                numbers = np.hstack([numbers, languages])
            if queries.contexts is not None:
                numbers = np.hstack([numbers, [context_numbers(context) for context in queries.contexts]])
            self._fit_words(found, seed)
            self._count_mean = numbers.mean(axis=0).astype(np.float32)
            self._count_scale = (numbers.std(axis=0) + 1e-6).astype(np.float32)
            words = np.stack([self._row(*row) for row in zip(found, numbers, strict=True)])
        else:
            words = self.words(queries)
        labels = domain_numbers(queries, rng)
        target = (labels[:, None] == np.arange(labels.max() + 1)).astype(np.float64)
        base = self._base(queries.embeddings, words)
        self._base_mean = base.mean(axis=0)
        scale = np.ones(base.shape[1], dtype=np.float32)
        d = queries.embeddings.shape[1]
        for block, weight in self._base_blocks(d):
            if (power := float(base[:, block].var(axis=0).sum())) > 0:
                scale[block] = weight / np.sqrt(power)
        base -= self._base_mean  # in place: of a million prompts, one such table is gigabytes
        base *= scale
        path = ridge(base, target)
        best = int(path.error(target).mean(axis=1).argmin())
        self._domain_weights = (path.weights[best] * scale[:, None]).astype(np.float32)
        self._domain_bias = (path.intercept[best] - self._base_mean @ self._domain_weights).astype(np.float32)
        own = np.arange(len(labels)), labels
        likelihood = [np.log(_softmax(path.honest[best] * s)[own] + 1e-9).mean() for s in SHARPNESS]
        self._sharpness = np.array([SHARPNESS[int(np.argmax(likelihood))]], dtype=np.float32)
        return np.hstack([words, _softmax(path.honest[best] * self._sharpness)]).astype(np.float32)

    def _no_prompts(self) -> None:
        self._rarity = np.zeros(0, dtype=np.float32)
        self._topics = np.zeros((0, 0), dtype=np.float32)
        self._count_mean = self._count_scale = np.zeros(0, dtype=np.float32)

    def _fit_words(self, found: Sequence[NDArray[np.int64]], seed: int) -> None:
        from scipy import sparse

        ends = np.cumsum([0, *(len(words) for words in found)])
        shape = (len(found), 1 << BITS)
        table = sparse.csr_matrix((np.ones(ends[-1], np.float32), np.concatenate(found), ends), shape=shape)
        table.sum_duplicates()
        table.data = 1.0 + np.log(table.data)
        spread = np.bincount(table.indices, minlength=shape[1])
        rarity = np.where(spread >= LEAST_PROMPTS, np.log((len(found) + 1) / (spread + 1)) + 1.0, 0.0)
        table = table.multiply(rarity).tocsr()
        norms = np.sqrt(np.asarray(table.multiply(table).sum(axis=1)).ravel()) + 1e-9
        table = (sparse.diags(1.0 / norms) @ table).tocsr()
        known = np.flatnonzero(rarity)
        rank = min(TOPICS, len(found) - 1, len(known))
        if rank < 1:
            return
        main = _main_axes(table[:, known], rank, np.random.default_rng(seed))
        axes = np.zeros((len(main), shape[1]), dtype=np.float32)
        axes[:, known] = main
        self._rarity = rarity.astype(np.float16).astype(np.float32)
        # in half precision, as they are stored
        self._topics = np.ascontiguousarray(axes.T).astype(np.float16)

    @property
    def blocks(self) -> Blocks:
        topics, counted = self._topics.shape[1], len(self._count_mean)
        words = topics + counted
        return Blocks(slice(0, topics), slice(topics, words), slice(words, words + len(self._domain_bias)))

    def read(self, queries: Queries) -> Floats:
        words = self.words(queries) if queries.words is None else queries.words
        score = self._base(queries.embeddings, words) @ self._domain_weights + self._domain_bias
        return np.hstack([words, _softmax(score * self._sharpness)])

    def words(self, queries: Queries) -> Floats:
        """What is read of the prompts alone, [n, W]."""
        topics, counted = self._topics.shape[1], len(self._count_mean)
        if queries.prompts is None or not topics + counted:
            return np.zeros((len(queries), topics + counted), dtype=np.float32)
        contexts = queries.contexts or (Context(),) * len(queries)
        return np.stack(
            [
                self._row(buckets(prompt), self._numbers(prompt, context))
                for prompt, context in zip(queries.prompts, contexts, strict=True)
            ]
        )

    def _numbers(self, prompt: str, context: Context) -> Floats:
        """The counts; the language's and the context's numbers where the training's queries had several."""
        numbers = counts(prompt)
        more = len(self._count_mean) - len(numbers)
        parts = [numbers]
        if more in (LANGUAGES, LANGUAGES + CONTEXTS):
            parts.append(language_numbers(shortened(prompt)))
        if more in (CONTEXTS, LANGUAGES + CONTEXTS):
            parts.append(context_numbers(context))
        return np.concatenate(parts)

    def _row(self, found: NDArray[np.int64], numbers: Floats) -> Floats:
        spread = (numbers - self._count_mean) / self._count_scale
        spread = np.asarray(np.minimum(np.maximum(spread, -COUNT_RANGE), COUNT_RANGE), dtype=np.float32)
        if not self._topics.shape[1]:
            return spread
        bucket, times = np.unique(found, return_counts=True)
        weight = (1.0 + np.log(times)) * self._rarity[bucket]
        unit = (weight / (np.sqrt(weight @ weight) + 1e-9)).astype(np.float32)
        return np.concatenate([unit @ self._topics[bucket].astype(np.float32), spread])

    def _base(self, vectors: Floats, words: Floats) -> Floats:
        return np.hstack([vectors, words]).astype(np.float32, copy=False)

    def _base_blocks(self, d: int) -> list[tuple[slice, float]]:
        topics, counted = self._topics.shape[1], len(self._count_mean)
        return [(slice(0, d), 1.0), (slice(d, d + topics), 1.0), (slice(d + topics, d + topics + counted), 0.5)]

    def state(self) -> dict[str, NDArray[Any]]:
        return {
            "rarity": self._rarity.astype(np.float16),
            "topics": self._topics.astype(np.float16),
            "count_mean": self._count_mean,
            "count_scale": self._count_scale,
            "domain_weights": self._domain_weights,
            "domain_bias": self._domain_bias,
            "sharpness": self._sharpness,
        }

    @classmethod
    def restored(cls, state: Mapping[str, NDArray[Any]]) -> "Reader":
        reader = cls()
        reader._rarity = take(state, "rarity", (None,))
        reader._topics = take(state, "topics", (len(reader._rarity), None)).astype(np.float16)
        reader._count_mean = take(state, "count_mean", (None,))
        reader._count_scale = take(state, "count_scale", (len(reader._count_mean),))
        size = len(counts(""))
        known = (size, size + LANGUAGES, size + CONTEXTS, size + LANGUAGES + CONTEXTS)
        if len(reader._count_mean) not in (0, *known):
            raise ArtifactError(
                f"{len(reader._count_mean)} counts of a prompt; this version makes {size}: train anew"
            )
        reader._domain_weights = take(state, "domain_weights", (None, None))
        reader._domain_bias = take(state, "domain_bias", (reader._domain_weights.shape[1],))
        reader._sharpness = take(state, "sharpness", (1,))
        return reader


class ReadingPolicy(Policy):
    """A policy over the vector and the features. As a part of another policy it reads with that one's reader."""

    rng: int
    reader_: Reader
    _lent = False

    def lend(self, reader: Reader) -> None:
        """From now on queries come with the features that `reader` makes, and the reader is kept by the lender."""
        self.reader_, self._lent = reader, True

    def _fit(self, outcomes: Outcomes) -> None:
        if not self._lent:
            self.reader_ = Reader()
            features = self.reader_.fit(outcomes.queries, self.rng)
            outcomes = replace(outcomes, queries=replace(outcomes.queries, features=features))
        self._learn(outcomes)

    @abstractmethod
    def _learn(self, outcomes: Outcomes) -> None:
        """Learns from outcomes whose queries have their features. May leave `honest_` (see `policies.stack`)."""

    def worded(self, queries: Queries) -> Queries:
        return replace(queries, words=self.reader_.words(queries))

    def described(self, queries: Queries) -> Queries:
        return queries if queries.features is not None else replace(queries, features=self.reader_.read(queries))

    def state(self) -> dict[str, NDArray[Any]]:
        return self._learned() if self._lent else {**self._learned(), **nested("reader", self.reader_.state())}

    def restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        if not self._lent:
            self.reader_ = Reader.restored(within("reader", state))
        self._relearn(state)

    @abstractmethod
    def _learned(self) -> dict[str, NDArray[Any]]:
        """The policy's own arrays."""

    @abstractmethod
    def _relearn(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Takes back what `_learned` gave."""


def table_of(queries: Queries) -> Floats:
    """Vector and features side by side, [n, d + F] float32."""
    assert queries.features is not None
    return np.hstack([queries.embeddings, queries.features]).astype(np.float32, copy=False)


def _several(languages: Floats) -> bool:
    """Whether the prompts are in several languages: in one, these numbers would only be noise."""
    strongest = np.where(languages.any(axis=1), languages.argmax(axis=1), -1)
    return (
        bool((strongest >= 0).any())
        and np.bincount(strongest[strongest >= 0]).max() < (1.0 - OTHER_LANGUAGES) * (strongest >= 0).sum()
    )


def domain_numbers(queries: Queries, rng: np.random.Generator) -> NDArray[np.intp]:
    """Each query's domain as a number; where the data name none, its cluster among the vectors."""
    if queries.domains is not None and len(set(queries.domains)) > 1:
        return np.unique(np.array(queries.domains), return_inverse=True)[1].ravel()
    clusters = min(PSEUDO_DOMAINS, len(queries) // 20)
    if clusters < 2 or not queries.embeddings.shape[1]:
        return np.zeros(len(queries), dtype=np.intp)
    from scipy.cluster.vq import kmeans2

    vectors = queries.embeddings
    if len(vectors) > SAMPLE:
        drawn = vectors[np.sort(rng.choice(len(vectors), SAMPLE, replace=False))]
        centres, _ = kmeans2(drawn.astype(np.float64), clusters, iter=20, minit="++", seed=rng)
        owner = (vectors @ centres.T.astype(np.float32) - half_norms(centres)).argmax(axis=1)
    else:
        _, owner = kmeans2(vectors.astype(np.float64), clusters, iter=20, minit="++", seed=rng)
    return np.unique(owner, return_inverse=True)[1].ravel()


def _main_axes(table: Any, rank: int, rng: np.random.Generator, rounds: int = 4) -> Floats:
    """The strongest right singular vectors [at most rank, columns] of a sparse table, their signs fixed.

    Randomised (Halko, Martinsson and Tropp, 2011): a few products with the whole table.
    """
    wider = min(rank + 16, *table.shape)
    basis = table @ rng.normal(size=(table.shape[1], wider)).astype(np.float32)
    for _ in range(rounds):
        basis = table @ _orthonormal(table.T @ _orthonormal(basis))
    small = (table.T @ _orthonormal(basis)).T
    size, turn = np.linalg.eigh((small @ small.T).astype(np.float64))
    strongest = np.argsort(-size)[:rank]
    axes = (turn[:, strongest] / np.sqrt(np.maximum(size[strongest], 1e-9))).T @ small
    return np.asarray(axes * np.sign(axes[np.arange(len(axes)), np.abs(axes).argmax(axis=1)])[:, None])


def _orthonormal(basis: Floats) -> Floats:
    """The same space by orthonormal columns, through the small matrix of products: far faster than QR."""
    wide = basis.astype(np.float64)
    size, turn = np.linalg.eigh(wide.T @ wide)
    kept = size > 1e-10 * size[-1]
    return np.asarray(wide @ (turn[:, kept] / np.sqrt(size[kept])), dtype=np.float32)


def _softmax(score: Floats) -> Floats:
    raised = np.exp(score - score.max(axis=1, keepdims=True))
    return np.asarray(raised / raised.sum(axis=1, keepdims=True))
