"""The graph computes what the weights say: against NumPy, and against torch where there is one."""

import random
import sys

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from tiny_bert import forward, write_bert

from router.encoder_check import sample_prompts
from router.encoder_folder import EncoderFolder, open_folder
from router.encoder_graph import build
from router.encoder_precision import options
from router.encoder_runtime import load_openvino
from router.encoder_tokens import Tokens, padded
from router.errors import EncoderError

IDS = [2, 9, 31, 77, 60, 12, 110, 8, 3]


def compiled(folder: EncoderFolder):
    openvino = load_openvino()

    return openvino.Core().compile_model(build(folder), "CPU", options("f32"))


def embed(graph, ids: list[int], length: int) -> np.ndarray:
    padding = length - len(ids)
    mask = np.array([[1.0] * len(ids) + [0.0] * padding], np.float32)
    return graph((np.array([ids + [0] * padding], np.int32), mask))[0][0]


@pytest.mark.parametrize("pooling", ["mean", "cls", "max"])
def test_the_graph_computes_what_numpy_computes_for_every_pooling(tmp_path, pooling):
    mode = "cls_token" if pooling == "cls" else f"{pooling}_tokens"
    folder = open_folder(str(write_bert(tmp_path, pooling=mode)))
    np.testing.assert_allclose(embed(compiled(folder), IDS, len(IDS)), forward(tmp_path, IDS, pooling), atol=1e-5)


def test_a_pooling_as_newer_sentence_transformers_write_it_is_understood(tmp_path):
    write_bert(tmp_path)
    (tmp_path / "1_Pooling" / "config.json").write_text('{"embedding_dimension": 64, "pooling_mode": "cls"}')
    vector = embed(compiled(open_folder(str(tmp_path))), IDS, len(IDS))
    np.testing.assert_allclose(vector, forward(tmp_path, IDS, "cls"), atol=1e-5)


def test_a_dense_module_after_the_pooling_is_applied(tmp_path):
    folder = open_folder(str(write_bert(tmp_path, dense=True)))
    np.testing.assert_allclose(embed(compiled(folder), IDS, len(IDS)), forward(tmp_path, IDS), atol=1e-5)


def test_the_positions_of_a_roberta_begin_after_its_padding_place(tmp_path):
    folder = open_folder(str(write_bert(tmp_path, model_type="roberta", pad_token_id=1)))
    np.testing.assert_allclose(embed(compiled(folder), IDS, len(IDS)), forward(tmp_path, IDS, first=2), atol=1e-5)


@pytest.mark.parametrize("pooling", ["mean_tokens", "cls_token", "max_tokens"])
def test_padding_does_not_change_the_vector(tmp_path, pooling):
    graph = compiled(open_folder(str(write_bert(tmp_path, pooling=pooling))))
    np.testing.assert_allclose(embed(graph, IDS, 32), embed(graph, IDS, len(IDS)), atol=1e-5)


def test_half_precision_weights_are_read_as_they_are(tmp_path):
    weights = load_file(write_bert(tmp_path) / "model.safetensors")
    save_file({k: v.astype(np.float16) for k, v in weights.items()}, tmp_path / "model.safetensors")
    vector = embed(compiled(open_folder(str(tmp_path))), IDS, len(IDS))
    np.testing.assert_allclose(vector, forward(tmp_path, IDS), atol=1e-5)


def test_a_missing_weight_is_named(tmp_path):
    weights = load_file(write_bert(tmp_path) / "model.safetensors")
    del weights["encoder.layer.1.output.dense.bias"]
    save_file(weights, tmp_path / "model.safetensors")
    with pytest.raises(EncoderError, match=r"encoder\.layer\.1\.output\.dense\.bias"):
        build(open_folder(str(tmp_path)))


def test_weights_that_are_no_safetensors_are_refused_with_their_file(tmp_path):
    (write_bert(tmp_path) / "model.safetensors").write_bytes(b"not at all")
    with pytest.raises(EncoderError, match=r"model\.safetensors"):
        build(open_folder(str(tmp_path)))


def test_a_model_of_another_kind_without_torch_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(EncoderError, match=r"'mpnet'.*pip install 'pointsman\[export\]'"):
        build(open_folder(str(write_bert(tmp_path, model_type="mpnet"))))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["default", "bert", "mpnet", "distilbert"])
def test_the_served_vectors_are_those_of_sentence_transformers(tmp_path, kind):
    sentence_transformers = pytest.importorskip("sentence_transformers")
    from torch_models import write_with_torch

    folder = open_folder("all-MiniLM-L6-v2" if kind == "default" else str(write_with_torch(tmp_path / kind, kind)))
    tokens = Tokens(folder)
    prompts = [text for text in sample_prompts(random.Random(5), 200) if len(tokens.ids(text)) < folder.window]
    model = sentence_transformers.SentenceTransformer(str(folder.path), device="cpu")
    wanted = model.encode(prompts, normalize_embeddings=True)
    graph = compiled(folder)
    found = np.stack([embed(graph, ids, padded(len(ids), folder.window)) for ids in map(tokens.ids, prompts)])
    assert len(prompts) > 5
    np.testing.assert_allclose((found * wanted).sum(axis=1), 1, atol=1e-4)
