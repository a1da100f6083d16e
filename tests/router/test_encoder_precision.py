"""The fastest precision that keeps the neighbours is chosen, and the prompts that this is judged by."""

import random

import numpy as np
import pytest
from tiny_bert import forward, write_bert

import router.encoder_precision as precisions
from router.encoder_check import neighbour_agreement, sample_prompts
from router.encoder_folder import open_folder
from router.encoder_graph import build
from router.encoder_precision import choose, options, reduced
from router.encoder_runtime import load_openvino
from router.errors import EncoderError


def test_a_precision_that_loses_neighbours_is_not_chosen(tmp_path):
    openvino = load_openvino()

    folder, rng = open_folder(str(write_bert(tmp_path))), np.random.default_rng(0)

    def embed_at_random(graph) -> np.ndarray:
        vectors = rng.standard_normal((200, 8)).astype(np.float32)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    assert choose(openvino.Core(), lambda: build(folder), embed_at_random).precision == "f32"


def test_the_fastest_precision_that_keeps_the_neighbours_is_chosen(tmp_path, monkeypatch):
    openvino = load_openvino()

    folder = open_folder(str(write_bert(tmp_path)))
    times = iter([9.0, 2.0, 1.0, 1.5])  # f32, int8, and up to two more, in the order they are tried
    monkeypatch.setattr(precisions, "_milliseconds", lambda _: next(times, 99.0))
    same = np.eye(50, dtype=np.float32)
    chosen = choose(openvino.Core(), lambda: build(folder), lambda graph: same)
    assert (chosen.milliseconds, chosen.agreement) == (min(9.0, 2.0, chosen.milliseconds), 1.0)
    assert chosen.precision != "f32"


def test_a_graph_that_gives_no_unit_vectors_is_refused(tmp_path):
    openvino = load_openvino()

    folder = open_folder(str(write_bert(tmp_path)))
    with pytest.raises(EncoderError, match="broken"):
        choose(openvino.Core(), lambda: build(folder), lambda graph: np.full((5, 4), np.nan, np.float32))


def test_sample_prompts_are_distinct_and_come_from_the_seed():
    prompts = sample_prompts(random.Random(3), 500)
    assert len(set(prompts)) == 500
    assert prompts == sample_prompts(random.Random(3), 500)
    assert prompts != sample_prompts(random.Random(4), 500)


def test_neighbour_agreement_counts_the_rows_whose_nearest_changed():
    reference = np.array([[1, 0], [0.9, 0.1], [0, 1], [0.1, 0.9]], np.float32)
    moved = np.array([[1, 0], [0.9, 0.1], [0, 1], [0.99, 0.05]], np.float32)
    assert neighbour_agreement(reference, reference) == 1.0
    assert neighbour_agreement(reference, moved) < 1.0


@pytest.mark.parametrize("precision", ["int8", "f32"])
def test_int8_points_nearly_and_float32_exactly_where_the_weights_point(tmp_path, precision):
    openvino = load_openvino()

    folder = open_folder(str(write_bert(tmp_path)))
    model = reduced(build(folder), precision)
    ids = np.array([[2, 9, 31, 77, 60, 12, 110, 3]], np.int32)
    graph = openvino.Core().compile_model(model, "CPU", options(precision))
    cosine = float(graph((ids, np.ones((1, 8), np.float32)))[0][0] @ forward(tmp_path, ids[0]))
    assert 0.99 < cosine < 0.99999 if precision == "int8" else cosine > 0.99999
