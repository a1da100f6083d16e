"""The encoder's graph: a BERT-family sentence-transformers folder, written as OpenVINO operations.

Knows nothing of caches on disk, threads or requests. Needs neither torch nor transformers: the weights come
straight from the safetensors file, and every operation is one that the CPU plugin fuses.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from router.errors import EncoderError

Pooling = Literal["mean", "cls", "max"]
ACTIVATIONS = {"gelu": "ERF", "gelu_new": "TANH", "gelu_pytorch_tanh": "TANH", "relu": "RELU"}


@dataclass(frozen=True, slots=True)
class ModelFolder:
    """What a sentence-transformers folder says of itself. `window` is in tokens, special ones included."""

    path: Path
    config: dict[str, Any]
    window: int
    pooling: Pooling
    normalize: bool

    @property
    def weights(self) -> Path:
        return self.path / "model.safetensors"

    @property
    def tokenizer(self) -> Path:
        return self.path / "tokenizer.json"

    @property
    def dimension(self) -> int:
        return int(self.config["hidden_size"])


def read_folder(path: Path) -> ModelFolder:
    """Reads the folder's configuration files. Raises `EncoderError`, naming the file that is wrong."""
    config = _read_json(path / "config.json")
    pooling: Pooling = "mean"
    normalize = False
    folder = path
    for module in _read_json(path / "modules.json", [{"type": "Transformer", "path": ""}, {"type": "Pooling"}]):
        kind = str(module.get("type", "")).rpartition(".")[2]
        if kind == "Transformer":
            folder = path / str(module.get("path", ""))
            config = _read_json(folder / "config.json")
        elif kind == "Pooling" and module.get("path"):
            pooling = _pooling(_read_json(path / str(module["path"]) / "config.json"), path)
        elif kind == "Normalize":
            normalize = True
    limit = int(config.get("max_position_embeddings", 512))
    window = _read_json(path / "sentence_bert_config.json", {}).get("max_seq_length") or limit
    return ModelFolder(folder, config, min(int(window), limit), pooling, normalize)


def _pooling(config: dict[str, Any], path: Path) -> Pooling:
    modes: dict[str, Pooling] = {
        "pooling_mode_cls_token": "cls",
        "pooling_mode_mean_tokens": "mean",
        "pooling_mode_max_tokens": "max",
    }
    chosen = [key for key, value in config.items() if key.startswith("pooling_mode_") and value]
    if len(chosen) != 1 or chosen[0] not in modes:
        raise EncoderError(f"{path}: pooling {chosen} is not supported; one of {sorted(modes)}")
    return modes[chosen[0]]


def _read_json(path: Path, default: Any = None) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        if default is not None:
            return default
        raise EncoderError(f"{path.parent} is no sentence-transformers folder: {path.name} is missing") from error
    except (OSError, ValueError) as error:
        raise EncoderError(f"cannot read {path}: {error}") from error


def build_bert(folder: ModelFolder) -> Any:
    """An `openvino.Model`: ids [b, t] int32 and mask [b, t] float32 -> unit vectors [b, d] float32."""
    from safetensors import safe_open

    with safe_open(folder.weights, "np") as file:
        weights = {name.removeprefix("bert."): file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    return _Bert(folder, weights).model()


class _Bert:
    def __init__(self, folder: ModelFolder, weights: dict[str, Any]) -> None:
        from openvino import opset13

        self.op = opset13
        self.folder = folder
        self.weights = weights
        self.heads = int(folder.config["num_attention_heads"])
        self.size = folder.dimension // self.heads

    def constant(self, value: Any, dtype: Any = np.int64) -> Any:
        return self.op.constant(np.asarray(value, dtype, order="C"))

    def weight(self, name: str) -> Any:
        return self.constant(self.weights[name], np.float32)

    def linear(self, x: Any, name: str) -> Any:
        product = self.op.matmul(x, self.weight(f"{name}.weight"), False, True)
        return self.op.add(product, self.weight(f"{name}.bias"))

    def norm(self, x: Any, name: str) -> Any:
        eps = float(self.folder.config.get("layer_norm_eps", 1e-12))
        y = self.op.mvn(x, self.constant([-1]), True, eps, "inside_sqrt")
        return self.op.add(self.op.multiply(y, self.weight(f"{name}.weight")), self.weight(f"{name}.bias"))

    def heads_first(self, x: Any) -> Any:
        split = self.op.reshape(x, self.constant([0, 0, self.heads, self.size]), True)
        return self.op.transpose(split, self.constant([0, 2, 1, 3]))

    def attention(self, x: Any, hidden: Any, name: str) -> Any:
        q, k, v = (self.heads_first(self.linear(x, f"{name}.self.{part}")) for part in ("query", "key", "value"))
        scores = self.op.multiply(self.op.matmul(q, k, False, True), self.constant(self.size**-0.5, np.float32))
        mixed = self.op.matmul(self.op.softmax(self.op.add(scores, hidden), -1), v, False, False)
        joined = self.op.transpose(mixed, self.constant([0, 2, 1, 3]))
        flat = self.op.reshape(joined, self.constant([0, 0, -1]), True)
        return self.norm(self.op.add(self.linear(flat, f"{name}.output.dense"), x), f"{name}.output.LayerNorm")

    def layer(self, x: Any, hidden: Any, name: str) -> Any:
        x = self.attention(x, hidden, f"{name}.attention")
        wide = self.op.gelu(self.linear(x, f"{name}.intermediate.dense"), "erf")
        return self.norm(self.op.add(self.linear(wide, f"{name}.output.dense"), x), f"{name}.output.LayerNorm")

    def embed(self, ids: Any) -> Any:
        words = self.op.gather(self.weight("embeddings.word_embeddings.weight"), ids, self.constant(0))
        # every token is of type 0: one text, never a pair
        places = self.weights["embeddings.position_embeddings.weight"]
        places = places + self.weights["embeddings.token_type_embeddings.weight"][0]
        length = self.op.gather(self.op.shape_of(ids, "i64"), self.constant([1]), self.constant(0))
        here = self.op.slice(
            self.constant(places, np.float32), self.constant([0]), length, self.constant([1]), self.constant([0])
        )
        return self.norm(self.op.add(words, here), "embeddings.LayerNorm")

    def pool(self, x: Any, mask: Any) -> Any:
        if self.folder.pooling == "cls":
            return self.op.gather(x, self.constant(0), self.constant(1))
        row = self.op.unsqueeze(mask, self.constant([1]))
        total = self.op.squeeze(self.op.matmul(row, x, False, False), self.constant([1]))
        count = self.op.reduce_sum(mask, self.constant([1]), True)
        return self.op.divide(total, count)

    def model(self) -> Any:
        from openvino import Model, Type

        ids = self.op.parameter([-1, -1], Type.i32, name="ids")
        mask = self.op.parameter([-1, -1], Type.f32, name="mask")
        off = self.op.multiply(self.op.subtract(mask, self.constant(1, np.float32)), self.constant(1e4, np.float32))
        hidden = self.op.unsqueeze(off, self.constant([1, 2]))
        x = self.embed(ids)
        for index in range(int(self.folder.config["num_hidden_layers"])):
            x = self.layer(x, hidden, f"encoder.layer.{index}")
        unit = self.op.normalize_l2(self.pool(x, mask), self.constant([1]), 1e-12, "max")
        return Model([unit], [ids, mask], "encoder")
