"""The encoder as the gateway uses it: shared work, cache, batches, and nothing that hangs."""

import asyncio
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from tiny_bert import write_bert

from router.config import EncoderSettings
from router.embedding import Encoder
from router.encoder_check import neighbour_agreement, sample_prompts
from router.encoder_folder import open_folder
from router.encoder_graph import build
from router.encoder_precision import options
from router.encoder_runtime import load_openvino
from router.encoder_tokens import Tokens, batches
from router.errors import EncoderError

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"


@pytest.fixture(scope="module")
def settings(tmp_path_factory) -> EncoderSettings:
    folder = tmp_path_factory.mktemp("encoder")
    return EncoderSettings(model=str(write_bert(folder / "tiny")), cache_dir=folder / "cache", max_wait_ms=0)


@contextmanager
def loaded(settings: EncoderSettings, **changes) -> Iterator[Encoder]:
    encoder = Encoder(settings.model_copy(update=changes))
    encoder.load()
    settled(encoder)
    try:
        yield encoder
    finally:
        encoder.close()


def settled(encoder: Encoder) -> None:
    """Waits until the worker has shown the runtime every shape, so that it is idle."""
    deadline = time.monotonic() + 60
    while encoder._cold:
        assert time.monotonic() < deadline, "the worker does not warm up"
        time.sleep(0.01)
    with encoder._lock:
        pass


@pytest.fixture
def encoder(settings) -> Iterator[Encoder]:
    with loaded(settings) as ready:
        yield ready


@pytest.fixture
def sizes(encoder) -> list[int]:
    """The number of rows of every inference from here on."""
    seen: list[int] = []
    infer = encoder._infer

    def counted(ids, mask):
        seen.append(len(ids))
        return infer(ids, mask)

    encoder._infer = counted
    return seen


@contextmanager
def worker_held(encoder: Encoder) -> Iterator[None]:
    """The worker cannot compute meanwhile; requests pile up."""
    encoder._lock.acquire()
    try:
        yield
    finally:
        encoder._lock.release()


async def started(encoder: Encoder, texts: list[str]) -> list[asyncio.Task]:
    tasks = [asyncio.ensure_future(encoder.encode(text)) for text in texts]
    await asyncio.sleep(0)
    return tasks


async def test_a_vector_is_float32_of_length_one(encoder):
    vector = await encoder.encode("explain the words")
    assert (vector.dtype, vector.shape) == (np.float32, (encoder.dimension,))
    assert abs(float(np.linalg.norm(vector)) - 1) < 1e-3


async def test_one_text_alone_and_in_a_batch_point_the_same_way(encoder):
    texts = ["a", "explain the words to me in a step", "what is a b c", ""] * 5
    batch = encoder.encode_batch(texts)
    for text, row in zip(texts, batch, strict=True):
        assert float(await encoder.encode(text) @ row) > 0.999


def test_encode_batch_keeps_the_order_and_reports_every_text(encoder):
    texts = [prompt[: 5 + 3 * i] for i, prompt in enumerate(sample_prompts(random.Random(0), 40))]
    done: list[int] = []
    vectors = encoder.encode_batch(texts, done.append)
    assert sum(done) == 40
    alone = np.concatenate([encoder.encode_batch([text]) for text in texts])
    assert ((vectors * alone).sum(axis=1) > 0.999).all()


def test_encode_batch_of_nothing_is_an_empty_matrix(encoder):
    assert encoder.encode_batch([]).shape == (0, encoder.dimension)


async def test_a_text_seen_before_comes_from_the_cache(encoder):
    first = await encoder.encode("what is a step")
    with worker_held(encoder):
        assert await encoder.encode("what is a step") is first


async def test_a_cached_vector_cannot_be_written_to(encoder):
    vector = await encoder.encode("what is a step")
    with pytest.raises(ValueError, match="read-only"):
        vector[0] = 2


async def test_the_cache_forgets_what_was_used_least_recently(settings):
    with loaded(settings, cache_entries=2) as encoder:
        first, second = await encoder.encode("a b"), await encoder.encode("c d")
        assert await encoder.encode("a b") is first
        await encoder.encode("e f")
        assert await encoder.encode("a b") is first
        assert await encoder.encode("c d") is not second


async def test_without_a_cache_every_text_is_computed(settings):
    with loaded(settings, cache_entries=0) as encoder:
        assert await encoder.encode("a b") is not await encoder.encode("a b")


async def test_equal_texts_in_flight_share_one_computation(encoder, sizes):
    with worker_held(encoder):
        tasks = await started(encoder, ["the same words"] * 20)
    vectors = await asyncio.gather(*tasks)
    assert all(vector is vectors[0] for vector in vectors)
    assert sizes == [1]


async def test_requests_that_arrive_meanwhile_share_the_next_batch(encoder, sizes):
    with worker_held(encoder):
        tasks = await started(encoder, [f"words {letter}" for letter in "abcdefghi"])
    await asyncio.gather(*tasks)
    assert sum(sizes) == 9
    assert max(sizes) >= 4


async def test_no_batch_holds_more_requests_than_configured(settings):
    with loaded(settings, max_batch=2) as encoder:
        with worker_held(encoder):
            tasks = await started(encoder, [f"words {letter}" for letter in "abcdefghi"])
        assert len(await asyncio.gather(*tasks)) == 9


async def test_the_event_loop_runs_on_while_the_encoder_computes(encoder):
    with worker_held(encoder):
        (task,) = await started(encoder, ["something new"])
        for _ in range(100):
            await asyncio.sleep(0)
        assert not task.done()
    assert (await task).shape == (encoder.dimension,)


async def test_one_caller_who_goes_away_does_not_take_the_answer_from_another(encoder):
    with worker_held(encoder):
        gone, stays = await started(encoder, ["shared words", "shared words"])
        gone.cancel()
        await asyncio.sleep(0)
    assert (await stays).shape == (encoder.dimension,)
    assert gone.cancelled()


async def test_a_failure_reaches_its_callers_and_the_next_request_works(encoder, monkeypatch):
    def fail(ids, mask):
        raise RuntimeError("out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(encoder, "_infer", fail)
        with pytest.raises(EncoderError, match="out of memory"):
            await encoder.encode("the first")
    assert (await encoder.encode("the first")).shape == (encoder.dimension,)


async def test_closing_tells_those_who_wait(settings):
    with loaded(settings) as encoder:
        with worker_held(encoder):
            (first,) = await started(encoder, ["at work"])
            encoder._jobs.put(None)
            (late,) = await started(encoder, ["behind the end"])
        encoder.close()
    assert (await first).shape == (encoder.dimension,)
    with pytest.raises(EncoderError, match="closed"):
        await late
    with pytest.raises(EncoderError, match="not loaded"):
        await encoder.encode("too late")


async def test_an_encoder_that_was_not_loaded_says_so(settings):
    with pytest.raises(EncoderError, match="not loaded"):
        await Encoder(settings).encode("early")


async def test_a_closed_encoder_can_be_loaded_again(settings):
    encoder = Encoder(settings)
    for _ in range(2):
        encoder.load()
        assert (await encoder.encode("a b")).shape == (encoder.dimension,)
        encoder.close()


def test_one_encoder_serves_one_event_loop_after_another(encoder):
    with worker_held(encoder):
        loop = asyncio.new_event_loop()
        loop.run_until_complete(started(encoder, ["left behind"]))
        for task in asyncio.all_tasks(loop):
            task.cancel()
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()
    assert asyncio.run(encoder.encode("left behind")).shape == (encoder.dimension,)
    assert asyncio.run(encoder.encode("another")).shape == (encoder.dimension,)


@pytest.mark.parametrize("text", ["", " ", "\x00", "\ud800 lone", "é" * 50, "漢字" * 500, "a" * 8_000_000])
async def test_odd_texts_are_embedded_too(encoder, text):
    assert np.isfinite(await encoder.encode(text)).all()


async def test_of_a_long_text_both_ends_count_and_the_middle_does_not(encoder):
    head, middle, tail = "what is the answer " * 40, "b c d " * 2000, "explain with words " * 40
    whole = await encoder.encode(head + middle + tail)
    assert float(whole @ await encoder.encode(head + "x y z " * 3000 + tail)) > 0.999
    assert float(whole @ await encoder.encode(head + middle + "z z z z " * 200)) < 0.999
    assert float(whole @ await encoder.encode("z z z z " * 200 + middle + tail)) < 0.999


def test_the_revision_is_that_of_the_weights(encoder, settings, tmp_path):
    with loaded(settings, model=str(write_bert(tmp_path / "other", seed=1))) as other:
        assert other.revision != encoder.revision
        assert other.name == "other"


# ---- the encoder that ships


@pytest.fixture(scope="module")
def minilm() -> Iterator[Encoder]:
    with loaded(EncoderSettings()) as ready:
        yield ready


async def test_the_default_encoder_puts_what_means_the_same_together(minilm):
    assert (minilm.name, minilm.dimension, minilm.window) == ("all-MiniLM-L6-v2", 384, 256)
    asked = await minilm.encode("How do I sort a list in Python?")
    same = await minilm.encode("python: ordering the elements of an array")
    other = await minilm.encode("Which wine goes with grilled fish?")
    assert float(asked @ same) > 0.5 > 0.2 > float(asked @ other)


def test_a_serving_process_holds_no_torch():
    code = (
        "import sys; from router.config import EncoderSettings; from router.embedding import Encoder\n"
        "assert not {'openvino', 'tokenizers', 'huggingface_hub'} & set(sys.modules), 'importing is not cheap'\n"
        "e = Encoder(EncoderSettings()); e.load(); e.close()\n"
        "assert not {'torch', 'transformers', 'sentence_transformers', 'huggingface_hub'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.data
@pytest.mark.skipif(not DATA.is_dir(), reason="no ../shared/data")
def test_real_prompts_keep_their_nearest_neighbours(minilm):
    openvino = load_openvino()
    import pyarrow.parquet as parquet

    tables = sorted(DATA.glob("*.parquet"))
    prompts: list[str] = []
    for table in tables:
        known = sorted(set(parquet.read_table(table, columns=["prompt"]).column(0).to_pylist()))
        prompts += random.Random(1).sample(known, 1000 // len(tables) + 1)
    prompts = list(dict.fromkeys(prompts))[:1000]
    folder = open_folder("all-MiniLM-L6-v2")
    tokens = Tokens(folder)
    ids = [tokens.ids(prompt) for prompt in prompts]
    exact = openvino.Core().compile_model(build(folder), "CPU", options("f32", threads=2))
    reference = np.zeros((len(ids), minilm.dimension), np.float32)
    for batch in batches(ids, folder.window):
        reference[list(batch.rows)] = exact(batch.arrays(ids, folder.pad_id))[0]
    assert neighbour_agreement(reference, minilm.encode_batch(prompts)) >= 0.98
