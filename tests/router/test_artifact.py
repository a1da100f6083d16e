"""Artifacts: saved whole, checked whole, and matched to a pool by name, likeness or tier."""

import errno
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import router.files
from policies import load_policy
from policies.static import Static
from router.artifact import (
    HEADER,
    STATE,
    Artifact,
    EncoderStamp,
    check_encoder,
    load,
    pack,
    save,
    take,
)
from router.errors import ArtifactError, ConfigError
from router.expert_names import columns, find
from router.types import ExpertSpec, Outcomes, Price, Queries

STAMP = EncoderStamp(name="tiny", revision="abc", dimension=4)
KNOWN = ("gpt-4o-2024-05-13", "gpt-4o-2024-08-06", "llama-3.1-8b-instruct", "tier:small", "tier:frontier")


def artifact(quality: float = 0.5, encoder: EncoderStamp | None = STAMP) -> Artifact:
    rng = np.random.default_rng(0)
    queries = Queries(
        embeddings=rng.normal(size=(6, 4 if encoder else 0)).astype(np.float32),
        input_tokens=np.arange(6, dtype=np.float32),
    )
    table = Outcomes(
        queries=queries,
        experts=("a", "b"),
        quality=np.full((6, 2), quality),
        cost_usd=np.full((6, 2), np.nan),
        output_tokens=np.full((6, 2), 100.0),
    )
    made = pack(Static().fit(table), queries, encoder=encoder, data_digest="d", metrics={"train_prompts": 6})
    return replace(made, encoder=encoder)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save(artifact(), tmp_path / "made")
    return tmp_path / "made"


def test_what_was_saved_is_what_is_loaded(tmp_path: Path) -> None:
    given = artifact()
    version = save(given, tmp_path / "made")
    found = load(tmp_path / "made")
    assert (found.kind, found.experts, found.encoder, found.metrics) == (
        "static",
        ("a", "b"),
        STAMP,
        {"train_prompts": 6},
    )
    assert found.version == version
    assert len(version) == 8
    assert np.array_equal(found.state["mean"], given.state["mean"])
    assert np.allclose(found.reference.embeddings, given.reference.embeddings, atol=1e-2)
    assert found.reference.embeddings.dtype == np.float32


def test_the_folder_holds_two_files_and_no_prompt(folder: Path) -> None:
    assert sorted(path.name for path in folder.iterdir()) == [HEADER, STATE]
    assert json.loads((folder / HEADER).read_text())["experts"] == ["a", "b"]


def test_the_same_content_has_the_same_version_and_other_content_another(tmp_path: Path) -> None:
    versions = [save(artifact(quality), tmp_path / name) for name, quality in (("x", 0.5), ("y", 0.5), ("z", 0.6))]
    assert versions[0] == versions[1] != versions[2]


@pytest.mark.parametrize("name", [HEADER, STATE])
def test_one_flipped_bit_is_an_error_that_names_the_file(folder: Path, name: str) -> None:
    whole = (folder / name).read_bytes()
    for position in range(0, len(whole), max(1, len(whole) // 97)):
        for bit in (0, 5):
            damaged = bytearray(whole)
            damaged[position] ^= 1 << bit
            (folder / name).write_bytes(damaged)
            with pytest.raises(ArtifactError, match=name):
                load(folder)


@pytest.mark.parametrize("name", [HEADER, STATE])
def test_a_missing_or_cut_file_is_an_error_that_names_it(folder: Path, name: str) -> None:
    whole = (folder / name).read_bytes()
    (folder / name).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ArtifactError, match=name):
        load(folder)
    (folder / name).unlink()
    with pytest.raises(ArtifactError, match=name):
        load(folder)


@pytest.mark.parametrize("content", [b"", b"[]", b'{"format": 2}', b'{"format": 1}', b"\xff\xfe", b"null"])
def test_a_header_that_is_none_says_what_was_expected(folder: Path, content: bytes) -> None:
    (folder / HEADER).write_bytes(content)
    with pytest.raises(ArtifactError, match=HEADER):
        load(folder)


def test_a_header_edited_by_hand_is_refused(folder: Path) -> None:
    text = (folder / HEADER).read_text()
    (folder / HEADER).write_text(text.replace('"a"', '"c"'))
    with pytest.raises(ArtifactError, match="edited"):
        load(folder)


def test_a_newer_format_says_which_this_version_reads(folder: Path) -> None:
    text = (folder / HEADER).read_text()
    (folder / HEADER).write_text(text.replace('"format": 1', '"format": 7'))
    with pytest.raises(ArtifactError, match="format 7; this version reads format 1"):
        load(folder)


def test_arrays_that_do_not_fit_the_experts_are_refused(tmp_path: Path) -> None:
    save(replace(artifact(), experts=("a", "b", "c")), tmp_path / "made")
    with pytest.raises(ArtifactError, match=r"experts.output_tokens.*shape \[2\], expected \[3\]"):
        load(tmp_path / "made")


def test_a_policys_own_arrays_are_checked_when_it_is_restored(tmp_path: Path) -> None:
    save(replace(artifact(), state={"mean": np.zeros(2, np.float32)}), tmp_path / "made")
    with pytest.raises(ArtifactError, match="'std' is missing"):
        load_policy(tmp_path / "made")


@pytest.mark.parametrize("change", [{"kind": "oracle"}, {"params": {"depth": 3}}])
def test_an_unknown_kind_or_parameter_is_an_error_that_names_the_folder(
    tmp_path: Path, change: dict[str, object]
) -> None:
    save(replace(artifact(), **change), tmp_path / "made")  # type: ignore[arg-type]
    with pytest.raises(ArtifactError, match="made"):
        load_policy(tmp_path / "made")


def test_saving_over_an_artifact_replaces_it_and_leaves_nothing_beside_it(folder: Path) -> None:
    version = save(artifact(0.9), folder)
    assert load(folder).version == version
    assert [path.name for path in folder.parent.iterdir()] == ["made"]


def test_folders_swap_where_the_system_cannot_exchange_names(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(router.files, "_exchanged", lambda one, other: False)
    version = save(artifact(0.9), folder)
    assert load(folder).version == version
    assert [path.name for path in folder.parent.iterdir()] == ["made"]


@pytest.mark.parametrize("failure", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_a_full_disk_or_an_interruption_leaves_the_old_artifact(
    folder: Path, monkeypatch: pytest.MonkeyPatch, failure: BaseException
) -> None:
    before = load(folder).version

    def fail(_: Path) -> None:
        raise failure

    monkeypatch.setattr("router.artifact.flush_folder", fail)
    with pytest.raises((ArtifactError, KeyboardInterrupt)):
        save(artifact(0.9), folder)
    assert load(folder).version == before
    assert [path.name for path in folder.parent.iterdir()] == ["made"]


def test_a_folder_with_other_files_is_never_replaced(folder: Path) -> None:
    (folder / "thesis.tex").write_text("years of work")
    with pytest.raises(ArtifactError, match=r"thesis\.tex"):
        save(artifact(0.9), folder)
    assert (folder / "thesis.tex").exists()


def test_a_file_in_the_place_of_the_folder_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "made").write_text("")
    with pytest.raises(ArtifactError, match="written as a folder"):
        save(artifact(), tmp_path / "made")


def test_another_encoder_is_an_error_that_names_both() -> None:
    check_encoder(artifact(), "tiny", "abc", 4)
    with pytest.raises(ArtifactError, match=r"'tiny' \(revision abc, 4 dimensions\).*'tiny' \(revision xyz"):
        check_encoder(artifact(), "tiny", "xyz", 4)


def test_a_policy_that_reads_no_query_takes_any_encoder() -> None:
    check_encoder(artifact(encoder=None), "other", "xyz", 8)


def test_an_array_of_the_wrong_shape_says_which_shape_was_expected() -> None:
    with pytest.raises(ArtifactError, match=r"'mean' has the shape \[3, 1\], expected \[any\]"):
        take({"mean": np.zeros((3, 1))}, "mean", (None,))


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("gpt-4o-2024-05-13", "gpt-4o-2024-05-13"),
        ("openai/gpt-4o-2024-05-13", "gpt-4o-2024-05-13"),
        ("gpt-4o", "gpt-4o-2024-08-06"),
        ("openrouter/openai/gpt-4o-latest", "gpt-4o-2024-08-06"),
        ("Llama-3_1-8B-Instruct", "llama-3.1-8b-instruct"),
        ("tier:small", "tier:small"),
        ("gpt-4", None),
        ("small", None),
    ],
)
def test_a_model_is_found_under_the_names_that_people_use(name: str, found: str | None) -> None:
    column = find(name, KNOWN)
    assert (None if column is None else KNOWN[column]) == found


def spec(name: str, like: str | None = None, tier: str | None = None) -> ExpertSpec:
    return ExpertSpec(name=name, price=Price(1.0, 1.0), like=like, tier=tier)


def named(specs: Sequence[ExpertSpec]) -> list[str]:
    return [KNOWN[column] for column in columns(KNOWN, specs)]


def test_an_expert_is_taken_for_its_name_then_its_likeness_then_its_tier() -> None:
    assert named([spec("gpt-4o", like="llama-3.1-8b-instruct", tier="small")]) == ["gpt-4o-2024-08-06"]
    assert named([spec("mine", like="llama-3.1-8b-instruct", tier="frontier")]) == ["llama-3.1-8b-instruct"]
    assert named([spec("mine", like="unheard-of", tier="frontier")]) == ["tier:frontier"]


def test_two_experts_may_be_taken_for_the_same() -> None:
    assert named([spec("one", tier="small"), spec("two", tier="small")]) == ["tier:small", "tier:small"]


def test_an_expert_that_nothing_fits_is_an_error_with_the_choices_and_the_nearest_name() -> None:
    with pytest.raises(ConfigError) as caught:
        columns(KNOWN, [spec("mine", like="meta-llama-3.1-8b-instruct")])
    message = str(caught.value)
    assert "'mine'" in message
    assert "'meta-llama-3.1-8b-instruct'" in message
    assert "did you mean like: llama-3.1-8b-instruct?" in message
    assert "tier: one of small, frontier" in message
    assert "gpt-4o-2024-05-13" in message


def test_an_artifact_without_tiers_says_so() -> None:
    with pytest.raises(ConfigError, match="knows no tiers"):
        columns(("a", "b"), [spec("mine", tier="small")])
