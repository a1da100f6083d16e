"""What is taught in torch is what is served: for models written as a graph, and for models that are traced."""

from pathlib import Path

import numpy as np
import pytest
from tiny_bert import write_bert

from router.encoder_folder import open_folder
from router.errors import EncoderError
from router.pupil import Pupil
from router.text_model import Reading, TextModel

torch = pytest.importorskip("torch")
PROMPTS = ["what is a cat", "how?", "explain to me in 12 words what the end of the tale is"]


def pupil_of(folder: Path) -> Pupil:
    found = open_folder(str(folder), plain=True)
    return Pupil(found, Reading(found.tokenizer.read_bytes(), 32, found.pad_id))


@pytest.mark.parametrize("kind", ["bert", "mpnet", "distilbert"])
@pytest.mark.parametrize("plain", [False, True])
def test_the_graph_gives_the_vectors_that_torch_gives_after_a_step_of_learning(
    tmp_path: Path, kind: str, plain: bool
) -> None:
    from torch_models import write_with_torch

    folder = write_with_torch(tmp_path, kind)
    if plain:
        (folder / "modules.json").unlink()
    pupil = pupil_of(folder)
    pupil.attach(2)
    before = pupil.vectors(PROMPTS)
    optimiser = torch.optim.SGD(pupil.encoder.parameters(), lr=1.0)
    pupil.scores(pupil.rows(PROMPTS))[0].square().sum().backward()
    optimiser.step()
    after = pupil.vectors(PROMPTS)
    assert np.abs(after - before).max() > 1e-3
    served = TextModel.packed(pupil.graph(), pupil.reading).vectors(PROMPTS)
    assert ((served * after).sum(axis=1) > 0.999).all()


@pytest.mark.parametrize("pooling", ["cls_token", "max_tokens"])
def test_the_models_own_pooling_is_kept(tmp_path: Path, pooling: str) -> None:
    pupil = pupil_of(write_bert(tmp_path, pooling=pooling))
    served = TextModel.packed(pupil.graph(), pupil.reading).vectors(PROMPTS)
    assert ((served * pupil.vectors(PROMPTS)).sum(axis=1) > 0.999).all()


def test_a_folder_without_weights_is_refused(tmp_path: Path) -> None:
    (write_bert(tmp_path) / "model.safetensors").unlink()
    with pytest.raises(EncoderError, match=tmp_path.name):
        pupil_of(tmp_path)
