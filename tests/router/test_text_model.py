"""A text model gives what its encoder gave, from bytes alone."""

from pathlib import Path

import numpy as np
import pytest
from tiny_bert import forward, write_bert

from router.encoder_folder import open_folder
from router.encoder_graph import build
from router.encoder_tokens import Tokens
from router.errors import ArtifactError
from router.text_model import ARRAYS, Reading, TextModel


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bert(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def model(folder: Path) -> TextModel:
    found = open_folder(str(folder))
    return TextModel.packed(build(found), Reading(found.tokenizer.read_bytes(), 40, found.pad_id, "the ", True))


def test_vectors_are_those_of_the_encoder_in_the_order_of_the_prompts(folder: Path, model: TextModel) -> None:
    prompts = ["what is a cat", "HOW?", "explain to me in 12 words what the end of the tale is, and write it"]
    vectors = model.vectors(prompts)
    tokens = Tokens(open_folder(str(folder)))
    for prompt, vector in zip(prompts, vectors, strict=True):
        ids = tokens.ids("the " + prompt.lower())
        ids = ids if len(ids) <= 40 else ids[:20] + ids[-20:]
        assert float(vector @ forward(folder, ids)) > 0.999


def test_what_is_stored_is_small_and_gives_the_same_again(folder: Path, model: TextModel) -> None:
    state = model.state()
    assert set(state) == set(ARRAYS) and all(array.dtype == np.uint8 for array in state.values())
    assert len(state["weights"]) < 0.6 * (folder / "model.safetensors").stat().st_size
    assert np.array_equal(TextModel(state).vectors(["a cat"]), model.vectors(["a cat"]))


def test_texts_that_are_empty_or_broken_have_a_vector_too(model: TextModel) -> None:
    assert np.isfinite(model.vectors(["", "\ud800 alone", "\x00", "the " * 5000])).all()


@pytest.mark.parametrize("name", ARRAYS)
def test_bytes_that_are_no_model_are_named(model: TextModel, name: str) -> None:
    state = model.state()
    with pytest.raises(ArtifactError, match="missing"):
        TextModel({key: array for key, array in state.items() if key != name})
    with pytest.raises(ArtifactError):
        TextModel({**state, name: np.frombuffer(b"nothing", np.uint8)})
