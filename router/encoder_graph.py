"""The encoder's graph in OpenVINO: written operation by operation for the BERT family, converted for the rest.

Knows nothing of caches, threads or requests. A graph takes ids [b, t] int32 and mask [b, t] float32 (1 for a
token, 0 for padding) and gives unit vectors [b, d] float32. It is always written in float32; the precision it
runs in is chosen when it is compiled (`router.encoder_export`).
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from router.encoder_folder import EncoderFolder, read_config
from router.encoder_runtime import load_openvino
from router.encoder_torch import convert
from router.errors import EncoderError

FAMILY = ("bert", "roberta", "xlm-roberta", "camembert")
ACTIVATIONS = ("gelu", "gelu_new", "gelu_pytorch_tanh", "relu", "silu")
POOLINGS = ("cls", "mean", "max")
HIDDEN = -1e4  # added to the score of a padded place: exp() of it is 0 in every precision


def build(folder: EncoderFolder) -> Any:
    """The `openvino.Model` of a folder. Raises `EncoderError`: an odd model without torch, a missing weight."""
    reason = foreign(folder)
    return convert(folder, reason) if reason else written(folder, read_weights(folder.weights))


def written(folder: EncoderFolder, tensors: Mapping[str, Any]) -> Any:
    """The `openvino.Model` of a folder that is not `foreign`, with `tensors` (float32, by name) for its weights."""
    return _Writer(folder, tensors).model()


def foreign(folder: EncoderFolder) -> str | None:
    """Why the graph cannot be written from the safetensors alone; None: it can."""
    config = folder.config
    kinds = [kind for kind, _ in folder.modules]
    if folder.model_type not in FAMILY:
        return f"its type is {folder.model_type!r}"
    if config.get("position_embedding_type", "absolute") != "absolute":
        return f"its positions are {config['position_embedding_type']!r}"
    if config.get("hidden_act") not in ACTIVATIONS:
        return f"its activation is {config.get('hidden_act')!r}"
    if kinds[:2] not in (["Transformer"], ["Transformer", "Pooling"]) or set(kinds[2:]) - {"Dense", "Normalize"}:
        return f"its modules are {kinds}"
    if pooling(folder) not in POOLINGS:
        return f"its pooling is {pooling(folder)!r}"
    if any(kind == "Dense" and not (path / "model.safetensors").is_file() for kind, path in folder.modules):
        return "its dense layer has no model.safetensors"
    return None if folder.weights.is_file() else "it has no model.safetensors in one piece"


def pooling(folder: EncoderFolder) -> str:
    """How token vectors become one; several ways at once are joined by "+". A plain transformer's: their mean."""
    path = next((path for kind, path in folder.modules if kind == "Pooling"), None)
    if path is None:
        return "mean"
    config = read_config(path)
    if "pooling_mode" in config:  # as sentence-transformers writes it since version 6
        mode = config["pooling_mode"]
        return mode if isinstance(mode, str) else "+".join(map(str, mode))
    modes = [
        key.removeprefix("pooling_mode_") for key, on in config.items() if key.startswith("pooling_mode_") and on
    ]
    return "+".join(mode.removesuffix("_tokens").removesuffix("_token") for mode in modes)


def read_weights(path: Path) -> dict[str, Any]:
    """Every tensor of a safetensors file as float32, without the wrapper's prefix in its name."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "np") as file:
            names = list(file.keys())
            kinds = {name: file.get_slice(name).get_dtype() for name in names}
            odd = sorted(set(kinds.values()) - {"F32", "F16", "I64"})
            if odd:
                raise EncoderError(f"{path}: tensors of type {odd[0]}; save the model in float32 or float16")
            tensors = {name: file.get_tensor(name).astype(np.float32) for name in names if kinds[name] != "I64"}
    except (OSError, SafetensorError) as error:
        raise EncoderError(f"cannot read {path}: {error}") from error
    return {re.sub(r"^(bert|roberta|camembert|model)\.", "", name): value for name, value in tensors.items()}


class _Weights(Mapping[str, Any]):
    """The tensors of one file; a missing one is named together with its file."""

    def __init__(self, path: Path, tensors: Mapping[str, Any]) -> None:
        self.path = path
        self.tensors = tensors

    def __getitem__(self, name: str) -> Any:
        if name not in self.tensors:
            raise EncoderError(f"{self.path}: the weight {name!r} is missing")
        return self.tensors[name]

    def __iter__(self) -> Any:
        return iter(self.tensors)

    def __len__(self) -> int:
        return len(self.tensors)


class _Writer:
    """Writes BERT, and RoBERTa, which differs in where its positions begin."""

    def __init__(self, folder: EncoderFolder, tensors: Mapping[str, Any]) -> None:
        self.op = load_openvino().opset13
        self.folder = folder
        self.config = folder.config
        self.weights = _Weights(folder.weights, tensors)
        self.heads = int(self.config["num_attention_heads"])
        self.size = int(self.config["hidden_size"]) // self.heads

    def model(self) -> Any:
        openvino = load_openvino()
        Model, Type = openvino.Model, openvino.Type
        ids = self.op.parameter([-1, -1], Type.i32, name="ids")
        mask = self.op.parameter([-1, -1], Type.f32, name="mask")
        absent = self.op.subtract(self.constant(1.0, np.float32), mask)
        bias = self.op.unsqueeze(self.op.multiply(absent, self.constant(HIDDEN, np.float32)), self.constant([1, 2]))
        x = self.embed(ids)
        for index in range(int(self.config["num_hidden_layers"])):
            x = self.layer(x, bias, f"encoder.layer.{index}")
        x = self.pool(x, mask)
        for kind, path in self.folder.modules:
            if kind == "Dense":
                x = self.dense(x, path)
        # always: policies take unit rows, whether or not the model ends in a Normalize module
        return Model([self.op.normalize_l2(x, self.constant([1]), 1e-12, "max")], [ids, mask], "encoder")

    def constant(self, value: Any, dtype: Any = np.int64, name: str | None = None) -> Any:
        return self.op.constant(np.asarray(value, dtype, order="C"), name=name)

    def weight(self, name: str) -> Any:
        return self.constant(self.weights[name], np.float32, name)

    def linear(self, x: Any, name: str) -> Any:
        product = self.op.matmul(x, self.weight(f"{name}.weight"), False, True)
        return self.op.add(product, self.weight(f"{name}.bias"))

    def norm(self, x: Any, name: str) -> Any:
        eps = float(self.config.get("layer_norm_eps", 1e-12))
        y = self.op.mvn(x, self.constant([-1]), True, eps, "inside_sqrt")
        return self.op.add(self.op.multiply(y, self.weight(f"{name}.weight")), self.weight(f"{name}.bias"))

    def activation(self, x: Any, kind: str) -> Any:
        if kind == "relu":
            return self.op.relu(x)
        if kind == "silu":
            return self.op.swish(x)
        return self.op.gelu(x, "erf" if kind == "gelu" else "tanh")

    def embed(self, ids: Any) -> Any:
        words = self.op.gather(self.weight("embeddings.word_embeddings.weight"), ids, self.constant(0))
        first = 0 if self.folder.model_type == "bert" else self.folder.pad_id + 1
        # every token is of type 0 (one text, never a pair), so its vector is part of the places'
        places = self.weights["embeddings.position_embeddings.weight"][first:]
        places = places + self.weights["embeddings.token_type_embeddings.weight"][0]
        length = self.op.gather(self.op.shape_of(ids, "i64"), self.constant([1]), self.constant(0))
        table = self.constant(places, np.float32)
        here = self.op.slice(table, self.constant([0]), length, self.constant([1]), self.constant([0]))
        return self.norm(self.op.add(words, here), "embeddings.LayerNorm")

    def split_heads(self, x: Any) -> Any:
        heads = self.op.reshape(x, self.constant([0, 0, self.heads, self.size]), True)
        return self.op.transpose(heads, self.constant([0, 2, 1, 3]))

    def layer(self, x: Any, bias: Any, name: str) -> Any:
        attention = f"{name}.attention"
        parts = (self.linear(x, f"{attention}.self.{part}") for part in ("query", "key", "value"))
        q, k, v = (self.split_heads(part) for part in parts)
        scores = self.op.multiply(self.op.matmul(q, k, False, True), self.constant(self.size**-0.5, np.float32))
        mixed = self.op.matmul(self.op.softmax(self.op.add(scores, bias), -1), v, False, False)
        flat = self.op.transpose(mixed, self.constant([0, 2, 1, 3]))
        flat = self.op.reshape(flat, self.constant([0, 0, -1]), True)
        x = self.norm(
            self.op.add(self.linear(flat, f"{attention}.output.dense"), x), f"{attention}.output.LayerNorm"
        )
        wide = self.activation(self.linear(x, f"{name}.intermediate.dense"), str(self.config["hidden_act"]))
        return self.norm(self.op.add(self.linear(wide, f"{name}.output.dense"), x), f"{name}.output.LayerNorm")

    def pool(self, x: Any, mask: Any) -> Any:
        kind = pooling(self.folder)
        if kind == "cls":
            return self.op.gather(x, self.constant(0), self.constant(1))
        if kind == "max":
            gone = self.op.multiply(
                self.op.subtract(mask, self.constant(1.0, np.float32)), self.constant(-HIDDEN, np.float32)
            )
            return self.op.reduce_max(
                self.op.add(x, self.op.unsqueeze(gone, self.constant([2]))), self.constant([1])
            )
        total = self.op.matmul(self.op.unsqueeze(mask, self.constant([1])), x, False, False)
        count = self.op.reduce_sum(mask, self.constant([1]), True)
        return self.op.divide(self.op.squeeze(total, self.constant([1])), count)

    def dense(self, x: Any, path: Path) -> Any:
        file = path / "model.safetensors"
        config, weights = read_config(path), _Weights(file, read_weights(file))
        x = self.op.matmul(x, self.constant(weights["linear.weight"], np.float32), False, True)
        if config.get("bias", True):
            x = self.op.add(x, self.constant(weights["linear.bias"], np.float32))
        kind = str(config.get("activation_function", "Tanh")).rpartition(".")[2]
        if kind not in ("Tanh", "Identity"):
            raise EncoderError(f"{path}: the dense layer's activation {kind} is not one of Tanh, Identity")
        return self.op.tanh(x) if kind == "Tanh" else x
