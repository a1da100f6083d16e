"""A sentence-transformers folder with a tiny random BERT, and what NumPy makes of the same weights."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

HIDDEN, HEADS, WIDE, LAYERS, PLACES = 64, 2, 128, 2, 64
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789.,:;?!()-^'%/"
COMMON = [
    "the",
    "of",
    "and",
    "is",
    "a",
    "to",
    "in",
    "what",
    "how",
    "write",
    "explain",
    "answer",
    "me",
    "for",
    "with",
]


def write_bert(
    folder: Path,
    *,
    seed: int = 0,
    pooling: str = "mean_tokens",
    model_type: str = "bert",
    dense: bool = False,
    window: int = PLACES - 8,
    **config: Any,
) -> Path:
    rng = np.random.default_rng(seed)
    modules = [("Transformer", ""), ("Pooling", "1_Pooling")]
    modules += [("Dense", "2_Dense")] if dense else []
    modules += [("Normalize", "3_Normalize")]
    for _, path in modules:
        (folder / path).mkdir(parents=True, exist_ok=True)
    listed = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (kind, path) in enumerate(modules)
    ]
    _write(folder / "modules.json", listed)
    _write(
        folder / "1_Pooling" / "config.json", {"word_embedding_dimension": HIDDEN, f"pooling_mode_{pooling}": True}
    )
    _write(folder / "sentence_bert_config.json", {"max_seq_length": window})
    _write_tokenizer(folder)
    words = len(SPECIAL) + 2 * len(LETTERS) + len(COMMON)
    facts = {
        "model_type": model_type,
        "architectures": ["BertModel"],
        "hidden_size": HIDDEN,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "intermediate_size": WIDE,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-12,
        "max_position_embeddings": PLACES,
        "type_vocab_size": 2,
        "vocab_size": words,
        "pad_token_id": 0,
    }
    _write(folder / "config.json", facts | config)
    save_file(_weights(rng, words), folder / "model.safetensors")
    if dense:
        _write(
            folder / "2_Dense" / "config.json",
            {"bias": True, "activation_function": "torch.nn.modules.activation.Tanh"},
        )
        save_file(_linear(rng, "linear", 32, HIDDEN), folder / "2_Dense" / "model.safetensors")
    return folder


def forward(folder: Path, ids: Sequence[int], pooling: str = "mean", first: int = 0) -> NDArray[np.float32]:
    """The unit vector [d] of one unpadded text."""
    w = {name: value.astype(np.float64) for name, value in load_file(folder / "model.safetensors").items()}
    x = w["embeddings.word_embeddings.weight"][list(ids)] + w["embeddings.token_type_embeddings.weight"][0]
    x = x + w["embeddings.position_embeddings.weight"][first : first + len(ids)]
    x = _norm(x, w, "embeddings.LayerNorm")
    for layer in range(LAYERS):
        name = f"encoder.layer.{layer}"
        q, k, v = (_apply(x, w, f"{name}.attention.self.{part}") for part in ("query", "key", "value"))
        heads = []
        for part in np.split(np.arange(HIDDEN), HEADS):
            scores = np.exp(q[:, part] @ k[:, part].T / np.sqrt(len(part)))
            heads.append(scores / scores.sum(axis=1, keepdims=True) @ v[:, part])
        mixed = _apply(np.concatenate(heads, axis=1), w, f"{name}.attention.output.dense")
        x = _norm(x + mixed, w, f"{name}.attention.output.LayerNorm")
        wide = _apply(x, w, f"{name}.intermediate.dense")
        wide = wide * 0.5 * (1 + np.vectorize(math.erf)(wide / np.sqrt(2)))
        x = _norm(x + _apply(wide, w, f"{name}.output.dense"), w, f"{name}.output.LayerNorm")
    pooled = {"mean": x.mean(axis=0), "cls": x[0], "max": x.max(axis=0)}[pooling]
    if (folder / "2_Dense").is_dir():
        dense = load_file(folder / "2_Dense" / "model.safetensors")
        pooled = np.tanh(pooled @ dense["linear.weight"].T + dense["linear.bias"])
    return np.asarray(pooled / np.linalg.norm(pooled), np.float32)


def _apply(x: Any, w: dict[str, Any], name: str) -> Any:
    return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]


def _norm(x: Any, w: dict[str, Any], name: str) -> Any:
    centred = x - x.mean(axis=1, keepdims=True)
    unit = centred / np.sqrt((centred**2).mean(axis=1, keepdims=True) + 1e-12)
    return unit * w[f"{name}.weight"] + w[f"{name}.bias"]


def _weights(rng: np.random.Generator, words: int) -> dict[str, NDArray[np.float32]]:
    tables = {"word_embeddings": words, "position_embeddings": PLACES, "token_type_embeddings": 2}
    found = {f"embeddings.{name}.weight": _random(rng, rows, HIDDEN) for name, rows in tables.items()}
    norms = ["embeddings.LayerNorm"]
    for layer in range(LAYERS):
        name = f"encoder.layer.{layer}"
        for part in ("self.query", "self.key", "self.value", "output.dense"):
            found |= _linear(rng, f"{name}.attention.{part}", HIDDEN, HIDDEN)
        found |= _linear(rng, f"{name}.intermediate.dense", WIDE, HIDDEN)
        found |= _linear(rng, f"{name}.output.dense", HIDDEN, WIDE)
        norms += [f"{name}.attention.output.LayerNorm", f"{name}.output.LayerNorm"]
    for name in norms:
        found[f"{name}.weight"] = 1 + 0.1 * _random(rng, HIDDEN)
        found[f"{name}.bias"] = 0.1 * _random(rng, HIDDEN)
    return found


def _linear(rng: np.random.Generator, name: str, out: int, into: int) -> dict[str, NDArray[np.float32]]:
    return {
        f"{name}.weight": _random(rng, out, into) / np.float32(np.sqrt(into)),
        f"{name}.bias": 0.1 * _random(rng, out),
    }


def _random(rng: np.random.Generator, *shape: int) -> NDArray[np.float32]:
    return rng.standard_normal(shape).astype(np.float32)


def _write_tokenizer(folder: Path) -> None:
    pieces = [*SPECIAL, *LETTERS, *(f"##{letter}" for letter in LETTERS), *COMMON]
    tokenizer = Tokenizer(models.WordPiece({piece: i for i, piece in enumerate(pieces)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    _write(folder / "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast", **names})


def _write(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value), encoding="utf-8")
