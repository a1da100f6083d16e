"""The vectors on disk: computed once, kept by encoder and prompt, safe from interruption and damage."""

from pathlib import Path

import numpy as np
import pytest
from outcome_tables import FakeEncoder

import training.embedding
from training.embedding import VectorCache

PROMPTS = [f"prompt number {i}" for i in range(10)]


def test_vectors_come_in_the_order_of_the_prompts_and_are_computed_once(tmp_path: Path) -> None:
    encoder = FakeEncoder()
    first = VectorCache(encoder, tmp_path).embed(PROMPTS)
    again = VectorCache(encoder, tmp_path).embed(PROMPTS[::-1])
    assert np.array_equal(first, again[::-1])
    assert first.dtype == np.float32
    assert encoder.encoded == PROMPTS


def test_a_prompt_given_twice_is_encoded_once(tmp_path: Path) -> None:
    encoder = FakeEncoder()
    vectors = VectorCache(encoder, tmp_path).embed(["same", "same"])
    assert encoder.encoded == ["same"]
    assert np.array_equal(vectors[0], vectors[1])


def test_another_revision_of_the_encoder_starts_anew(tmp_path: Path) -> None:
    VectorCache(FakeEncoder(), tmp_path).embed(PROMPTS)
    other = FakeEncoder()
    other.revision = "2"
    VectorCache(other, tmp_path).embed(PROMPTS)
    assert other.encoded == PROMPTS


def test_progress_counts_every_prompt(tmp_path: Path) -> None:
    VectorCache(FakeEncoder(), tmp_path).embed(PROMPTS[:4])
    done: list[int] = []
    VectorCache(FakeEncoder(), tmp_path).embed(PROMPTS, done.append)
    assert sum(done) == len(PROMPTS)
    assert done[0] == 4


def test_an_interrupted_run_goes_on_where_it_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training.embedding, "SHARD_PROMPTS", 3)

    class Interrupted(FakeEncoder):
        def encode_batch(self, texts: list[str], progress: object = None) -> object:
            if len(self.encoded) >= 6:
                raise KeyboardInterrupt
            return super().encode_batch(texts, progress)

    with pytest.raises(KeyboardInterrupt):
        VectorCache(Interrupted(), tmp_path).embed(PROMPTS)
    encoder = FakeEncoder()
    VectorCache(encoder, tmp_path).embed(PROMPTS)
    assert encoder.encoded == PROMPTS[6:]


def test_a_damaged_shard_is_made_again(tmp_path: Path) -> None:
    before = VectorCache(FakeEncoder(), tmp_path).embed(PROMPTS)
    (shard,) = tmp_path.rglob("*.npz")
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    encoder = FakeEncoder()
    assert np.array_equal(VectorCache(encoder, tmp_path).embed(PROMPTS), before)
    assert encoder.encoded == PROMPTS


def test_no_prompt_is_written(tmp_path: Path) -> None:
    VectorCache(FakeEncoder(), tmp_path).embed(["a very secret prompt"])
    for path in tmp_path.rglob("*.npz"):
        assert b"secret" not in path.read_bytes()


def test_any_text_can_be_cached(tmp_path: Path) -> None:
    assert len(VectorCache(FakeEncoder(), tmp_path).embed(["", "\ud800", "é" * 10])) == 3
