"""What a policy reads of a prompt and of what comes with it."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from policies.linear import Linear
from router.errors import ArtifactError
from router.features import Reader
from router.languages import NAMES
from router.prompt_counts import context_numbers, counts
from router.types import Context, Outcomes, Queries
from training.data import read_tables

CONTEXTS = (Context(), Context(images=True), Context(tools=True, turn=5), Context(tenant="law"))


def outcomes(rows: int = 400) -> Outcomes:
    """Two experts: the second sees images, the first does not. Nothing else tells the prompts apart."""
    rng = np.random.default_rng(0)
    contexts = tuple(CONTEXTS[i % len(CONTEXTS)] for i in range(rows))
    images = np.array([context.images for context in contexts])
    chance = np.stack([np.where(images, 0.1, 0.9), np.full(rows, 0.6)], axis=1)
    queries = Queries(
        embeddings=rng.normal(size=(rows, 8)).astype(np.float32) / 3,
        input_tokens=np.full(rows, 10, np.float32),
        prompts=tuple(f"What is shown here, number {i}?" for i in rng.permutation(rows)),
        contexts=contexts,
    )
    quality = (rng.random((rows, 2)) < chance).astype(float)
    blank = np.full((rows, 2), np.nan)
    return Outcomes(
        queries=queries, experts=("blind", "seeing"), quality=quality, cost_usd=blank, output_tokens=blank
    )


def test_a_policy_learns_from_what_comes_with_the_prompt() -> None:
    given = outcomes()
    quality = Linear().fit(given).predict(given.queries).quality
    images = np.array([context.images for context in given.queries.contexts or ()])
    assert (quality[images, 1] > quality[images, 0]).mean() > 0.95
    assert (quality[~images, 0] > quality[~images, 1]).mean() > 0.95


def test_a_reader_of_plain_prompts_takes_no_notice_of_the_context() -> None:
    given = outcomes(60).queries
    reader = Reader()
    reader.fit(replace(given, contexts=None), 0)
    assert np.array_equal(reader.read(given), reader.read(replace(given, contexts=None)))


def test_a_prompt_whose_context_is_not_known_is_read_as_a_first_plain_turn() -> None:
    given = outcomes(60).queries
    reader = Reader()
    reader.fit(given, 0)
    plain = replace(given, contexts=(Context(),) * 60)
    assert np.array_equal(reader.read(replace(given, contexts=None)), reader.read(plain))


def test_tenants_are_kept_by_a_hash_only() -> None:
    first, second = context_numbers(Context(tenant="law")), context_numbers(Context(tenant="sales"))
    assert not np.array_equal(first, second)
    assert first.shape == context_numbers(Context()).shape


def test_a_reader_of_another_version_is_refused() -> None:
    given = outcomes(60).queries
    reader = Reader()
    reader.fit(given, 0)
    state = reader.state()
    short = state | {name: state[name][: len(counts("")) - 3] for name in ("count_mean", "count_scale")}
    with pytest.raises(ArtifactError, match="train anew"):
        Reader.restored(short)


def test_a_table_may_say_what_came_with_its_prompts(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text(
        "prompt,model,score,tools,images,turn,tenant\n"
        "a,x,1,true,0,3,law\na,y,0,true,0,3,law\nb,x,1,,,,\nb,y,1,,,,\n",
        encoding="utf-8",
    )
    contexts = read_tables([path]).outcomes.queries.contexts
    assert contexts == (Context(tools=True, turn=3, tenant="law"), Context())


def test_a_table_that_says_nothing_of_it_has_no_contexts(tmp_path: Path) -> None:
    path = tmp_path / "plain.csv"
    path.write_text("prompt,model,score\na,x,1\na,y,0\n", encoding="utf-8")
    assert read_tables([path]).outcomes.queries.contexts is None


def test_the_language_is_read_where_the_prompts_are_in_several() -> None:
    asked = {
        "en": "What is the name of the river in the valley, number {}?",
        "es": "¿Cuál es el nombre del río, el {}?",
    }
    rows = np.arange(300)
    spanish = rows % 3 == 0
    queries = replace(
        outcomes(300).queries,
        prompts=tuple(asked["es" if other else "en"].format(row) for row, other in zip(rows, spanish, strict=True)),
        contexts=None,
    )
    several, one = Reader(), Reader()
    several.fit(queries, 0)
    one.fit(replace(queries, prompts=tuple(asked["en"].format(row) for row in rows)), 0)
    width = several.blocks.counts.stop - several.blocks.counts.start
    assert width == one.blocks.counts.stop - one.blocks.counts.start + len(NAMES)
    read = several.read(queries)[:, several.blocks.counts][:, -len(NAMES) :]
    assert (read[spanish, NAMES.index("es")] > read[~spanish, NAMES.index("es")].max()).all()
