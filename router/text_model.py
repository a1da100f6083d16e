"""A fine-tuned encoder inside a policy's artifact: prompts in, unit vectors out, without torch and without a file.

Knows nothing of training or of experts. Graph, weights and tokenizer are bytes in the artifact's arrays, so that it
needs neither the encoder it began as nor a hub.
"""

import json
import tempfile
import threading
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from router.encoder_precision import Precision, options, reduced
from router.encoder_runtime import load_openvino
from router.encoder_tokens import Tokens, batches, shapes, valid
from router.errors import ArtifactError, EncoderError
from router.types import Floats

Bytes = NDArray[np.uint8]
ARRAYS = ("graph", "weights", "tokenizer", "reading")
SMALL = 1_024  # numbers: a constant that is not worth halving


@dataclass(frozen=True, slots=True)
class Reading:
    """How the model reads a text: a longer one than `window` tokens keeps its head and its tail."""

    tokenizer: bytes  # tokenizer.json
    window: int
    pad_id: int
    prefix: str = ""
    lowercase: bool = False


class TextModel:
    """One graph, run by one caller at a time. `arrays` are `ARRAYS`, each uint8 [any]; raises `ArtifactError`."""

    def __init__(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        self._arrays = {name: _bytes(arrays, name) for name in ARRAYS}
        openvino = load_openvino()
        content = {name: array.tobytes() for name, array in self._arrays.items() if name != "weights"}
        try:
            rules = json.loads(content["reading"])
            self._reading = Reading(tokenizer=content["tokenizer"], **rules)
            self._tokens = Tokens(self._reading)
            core = openvino.Core()
            model = core.read_model(content["graph"], openvino.Tensor(self._arrays["weights"]))
            compiled = core.compile_model(model, "CPU", options(native_precision()))
        except (RuntimeError, TypeError, ValueError, EncoderError) as error:
            raise ArtifactError(f"the text model cannot be used: {str(error).splitlines()[0]}") from error
        self.dimension = int(compiled.output(0).get_partial_shape()[1].get_length())
        self._request: Any = compiled.create_infer_request()
        self._lock = threading.Lock()
        for rows, length in shapes(self._reading.window):
            if rows == 1:  # so that no query pays for being the first of its length
                self._infer(np.zeros((1, length), np.int32), np.ones((1, length), np.float32))

    @classmethod
    def packed(cls, model: Any, reading: Reading) -> "TextModel":
        """Of an `openvino.Model` in float32. What is stored: the words' table in int8, the rest in float16."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "graph.xml"
            load_openvino().save_model(_halved(reduced(model, "bf16")), path, compress_to_fp16=False)
            graph, weights = path.read_bytes(), path.with_suffix(".bin").read_bytes()
        rules = {name: value for name, value in asdict(reading).items() if name != "tokenizer"}
        parts = (graph, weights, reading.tokenizer, json.dumps(rules).encode())
        return cls({name: np.frombuffer(part, np.uint8) for name, part in zip(ARRAYS, parts, strict=True)})

    def vectors(self, prompts: Sequence[str]) -> Floats:
        """Unit vectors [n, d] float32."""
        ids = [self._tokens.ids(valid(self._tokens.shorten(prompt))) for prompt in prompts]
        result = np.empty((len(ids), self.dimension), np.float32)
        for batch in batches(ids, self._reading.window):
            result[list(batch.rows)] = self._infer(*batch.arrays(ids, self._reading.pad_id))
        return result

    def _infer(self, ids: NDArray[np.int32], mask: Floats) -> Floats:
        with self._lock:
            self._request.infer({0: ids, 1: mask}, share_inputs=True)
            return np.array(self._request.get_output_tensor(0).data, np.float32)

    def state(self) -> dict[str, Bytes]:
        return dict(self._arrays)


def native_precision() -> Precision:
    """bf16 where the CPU computes in it, else float32."""
    offered = load_openvino().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return "bf16" if "BF16" in offered else "f32"


def _halved(model: Any) -> Any:
    """The graph with its large float32 constants kept in float16; it is changed in place.

    `save_model` does the same, but not to a graph in which one constant is in int8.
    """
    openvino = load_openvino()
    op = openvino.opset13
    for node in model.get_ordered_ops():
        if node.get_type_name() != "Constant" or node.get_element_type() != openvino.Type.f32:
            continue
        if (values := np.array(node.data)).size < SMALL:
            continue
        takers = list(node.output(0).get_target_inputs())
        half = op.convert(op.constant(values.astype(np.float16)), "f32")
        for taker in takers:
            taker.replace_source_output(half.output(0))
    return model


def _bytes(arrays: Mapping[str, NDArray[Any]], name: str) -> Bytes:
    if name not in arrays:
        raise ArtifactError(f"the array {name!r} is missing; there are: {', '.join(sorted(arrays)) or 'none'}")
    array = arrays[name]
    if array.dtype != np.uint8 or array.ndim != 1 or not len(array):
        raise ArtifactError(f"the array {name!r} is {array.dtype} {list(array.shape)}, expected bytes: uint8 [any]")
    return np.ascontiguousarray(array)
