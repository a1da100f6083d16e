"""The BERT classifier: what is served without torch, and what is learned where there is torch."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tiny_bert import HIDDEN, forward, write_bert

from policies import load_policy, policy_class
from policies.bert import Bert
from router.artifact import save
from router.encoder_folder import open_folder
from router.encoder_graph import build as write_graph
from router.encoder_tokens import Tokens
from router.errors import ArtifactError, ConfigError, DataError
from router.pupil import Head
from router.stepped import Stepped
from router.text_model import Reading, TextModel
from router.trust import Trust
from router.types import Outcomes, Queries
from training.data import Table
from training.fit import build, fit

SUMS = ("what is 12 + 30?", "how is 7 * 8 done?", "what is 99 - 4?")
TALES = ("write me a tale of a cat", "explain the end of the tale", "the cat and the tale of a dog")
EXPERTS = ("maths", "tales", "dear")


def outcomes(rows: int = 160, seed: int = 0, *, domains: bool = True) -> Outcomes:
    """Sums, which `maths` can do, and tales, which `tales` can; `dear` can do both, at ten times the price."""
    rng = np.random.default_rng(seed)
    tale = rng.random(rows) < 0.5
    prompts = tuple(f"{(TALES if t else SUMS)[rng.integers(3)]} {rng.integers(99)}" for t in tale)
    right = np.stack([~tale, tale, np.ones(rows, bool)], axis=1)
    tokens = np.full((rows, 3), 100.0)
    return Outcomes(
        queries=Queries(
            embeddings=np.zeros((rows, 0), np.float32),
            input_tokens=np.full(rows, 10.0, np.float32),
            prompts=prompts,
            domains=tuple("tale" if t else "sum" for t in tale) if domains else None,
        ),
        experts=EXPERTS,
        quality=np.where(rng.random((rows, 3)) < [0.9, 0.9, 1.0], right, ~right).astype(float),
        cost_usd=tokens * np.array([1.0, 1.0, 10.0]) / 1e6,
        output_tokens=tokens,
    )


def untrained(folder: Path, head: str = "quality") -> Bert:
    """A policy as training leaves it, with random heads over a random encoder: made without torch."""
    rng = np.random.default_rng(0)
    model = open_folder(str(write_bert(folder)))
    policy = Bert(head=head, encoder=str(folder))  # type: ignore[arg-type]
    policy.experts_, policy.output_tokens_ = EXPERTS, np.full(3, 100.0, np.float32)
    policy.text_ = TextModel.packed(write_graph(model), Reading(model.tokenizer.read_bytes(), 32, model.pad_id))
    heads = {"domain": 4, "quality": 3} if head == "quality" else {"domain": 4}
    policy.heads_ = {
        name: Head(*(rng.normal(size=s).astype(np.float32) for s in ((HIDDEN, n), n))) for name, n in heads.items()
    }
    policy.trust_ = Trust(np.full(3, 0.5, np.float32), np.stack([np.eye(3), np.zeros((3, 3))]).astype(np.float32))
    policy.table_ = rng.random((4, 3)).astype(np.float32)
    policy.evidence_ = np.full((4, 3), 9.0, np.float32)
    return policy


def asked(*prompts: str) -> Queries:
    return Queries(np.zeros((len(prompts), 0), np.float32), np.ones(len(prompts), np.float32), prompts=prompts)


def saved(policy: Bert, folder: Path) -> Path:
    from router.artifact import pack

    reference = replace(policy.described(asked(*SUMS)), prompts=None)
    save(pack(policy, reference, encoder=None, data_digest="d", metrics={}), folder)
    return folder


@pytest.mark.parametrize("head", ["quality", "domain", "composition"])
def test_an_artifact_is_served_without_torch_and_without_the_encoders_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, head: str
) -> None:
    policy = untrained(tmp_path / "tiny", head)
    folder = saved(policy, tmp_path / "artifact")
    for file in sorted((tmp_path / "tiny").rglob("*.*")):
        file.unlink()
    for library in ("torch", "transformers"):
        monkeypatch.setitem(sys.modules, library, None)
    restored, artifact = load_policy(folder)
    queries = asked(*SUMS, *TALES)
    before, after = policy.predict(queries), restored.predict(queries)
    np.testing.assert_allclose(after.quality, before.quality, atol=1e-6)
    np.testing.assert_allclose(after.std, before.std, atol=1e-6)
    np.testing.assert_allclose(
        restored.predict(artifact.reference).quality, policy.predict(asked(*SUMS)).quality, atol=5e-3
    )


def test_it_foretells_what_the_heads_make_of_the_encoders_vector(tmp_path: Path) -> None:
    policy = untrained(tmp_path)
    ids = Tokens(open_folder(str(tmp_path))).ids(SUMS[0])
    scores = policy.heads_["quality"].scores(forward(tmp_path, ids))
    quality = policy.predict(asked(SUMS[0])).quality[0]
    np.testing.assert_allclose(quality, 1 / (1 + np.exp(-scores)), atol=0.02)  # the runtime may compute in bf16


def test_a_category_alone_decides_in_a_composition_and_shares_of_all_in_a_domain_table(tmp_path: Path) -> None:
    policy = untrained(tmp_path, "composition")
    hard = policy.predict(asked(*SUMS, *TALES)).quality
    assert all(np.isclose(policy.table_, row).all(axis=1).any() for row in hard)
    policy.head = "domain"
    soft = policy.predict(asked(*SUMS, *TALES)).quality
    assert (soft > policy.table_.min(axis=0)).all() and (soft < policy.table_.max(axis=0)).all()
    assert not np.isclose(hard, soft).any()


def test_steps_that_follow_it_leave_it_a_reader_of_the_text(tmp_path: Path) -> None:
    policy = untrained(tmp_path)
    stepped = Stepped(policy, (), EXPERTS, policy.output_tokens_)
    assert stepped.reads_text and not stepped.reads_query
    assert np.array_equal(stepped.predict(asked(*SUMS)).quality, policy.predict(asked(*SUMS)).quality)


def test_queries_with_neither_prompts_nor_features_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="prompts"):
        untrained(tmp_path).predict(Queries(np.zeros((2, 0), np.float32), np.ones(2)))


def test_features_that_another_policy_made_are_refused(tmp_path: Path) -> None:
    policy = untrained(tmp_path)
    with pytest.raises(DataError, match="encoder of its own"):
        policy.predict(replace(asked("a"), features=np.zeros((1, HIDDEN + 3), np.float32)))


def test_a_damaged_graph_is_an_artifact_error(tmp_path: Path) -> None:
    policy = untrained(tmp_path)
    state = policy.state()
    with pytest.raises(ArtifactError, match="text model"):
        policy.restore({**state, "text.graph": state["text.graph"][:100]})
    with pytest.raises(ArtifactError, match=r"'text\.tokenizer'|'tokenizer'"):
        policy.restore({**state, "text.tokenizer": state["text.tokenizer"].astype(np.float32)})


def test_training_without_torch_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ConfigError, match=r"torch.*pip install 'pointsman\[neural\]'"):
        Bert(encoder=str(write_bert(tmp_path))).fit(outcomes(20))


@pytest.mark.parametrize(
    "wrong",
    [{"head": "tail"}, {"window": 0}, {"rate": -1.0}, {"typos": 1.5}, {"budget": 0.5}, {"side": float("nan")}],
)
def test_a_parameter_out_of_range_is_named(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        Bert(**wrong).fit(outcomes(20))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    pytest.importorskip("torch")
    return str(write_bert(tmp_path_factory.mktemp("tiny")))


def learned(tiny: str, table: Outcomes | None = None, **params: object) -> Bert:
    small = {"encoder": tiny, "epochs": 12, "rate": 1e-3, "window": 32}
    policy = build("bert", {**small, **params}, 0).fit(outcomes() if table is None else table)
    assert isinstance(policy, Bert)
    return policy


@pytest.mark.parametrize("head", ["quality", "domain", "composition"])
def test_every_head_learns_who_is_good_at_what(tiny: str, head: str) -> None:
    held_out = outcomes(80, seed=1)
    quality = learned(tiny, head=head).predict(held_out.queries).quality
    tale = np.array(held_out.queries.domains) == "tale"
    assert (quality[tale, 1] > quality[tale, 0] + 0.2).mean() > 0.9
    assert (quality[~tale, 0] > quality[~tale, 1] + 0.2).mean() > 0.9


def test_where_the_data_name_no_domains_clusters_stand_for_them(tiny: str) -> None:
    policy = learned(tiny, outcomes(domains=False), head="domain", epochs=1)
    assert len(policy.table_) > 1


def test_a_budget_leaves_the_dear_expert_out(tiny: str) -> None:
    held_out = outcomes(60, seed=1)
    free, bound = (learned(tiny, head="composition", budget=budget) for budget in (None, 0.2))
    assert (free.predict(held_out.queries).quality.argmax(axis=1) == 2).mean() > 0.5
    tale = np.array(held_out.queries.domains) == "tale"
    assert (bound.predict(held_out.queries).quality.argmax(axis=1) == tale).mean() > 0.9


def test_training_disguises_prompts_when_asked(tiny: str) -> None:
    plain = learned(tiny, epochs=1).heads_["quality"].weights
    disguised = learned(tiny, epochs=1, typos=1.0, masking=1.0).heads_["quality"].weights
    assert not np.array_equal(plain, disguised)


def test_a_trained_policy_goes_through_the_command_lines_path(tiny: str, tmp_path: Path) -> None:
    table = Table(outcomes=outcomes(), splits=("train",) * 160, digest="d", notes=())
    policy = build("bert", {"encoder": tiny, "epochs": 1, "window": 32}, 0)
    artifact = fit(policy, table, None, 0)
    assert artifact.encoder is None and artifact.reference.prompts is None
    save(artifact, tmp_path / "made")
    restored, _ = load_policy(tmp_path / "made")
    assert restored.predict(artifact.reference).quality.shape == (160, 3)
    assert policy_class("bert").reads_text and not policy_class("bert").reads_query
