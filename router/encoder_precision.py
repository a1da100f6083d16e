"""In which numbers a graph runs: the fastest on this CPU that still sees the same neighbours as float32.

Knows nothing of files. What each costs and keeps, on CPUs with and without AMX, is in docs/log.md.
"""

import os
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from router.encoder_check import neighbour_agreement
from router.encoder_runtime import load_openvino
from router.errors import EncoderError

Precision = Literal["bf16", "f16", "int8", "f32"]
Vectors = NDArray[np.float32]

AGREEMENT = 0.98  # share of prompts whose nearest neighbour float32 also finds
GROUP = 32  # int8: weights that share a scale, and activations too
#: Weights that int8 leaves alone: rounding the attention's values costs the most neighbours.
TENDER = re.compile(r"[./](value|v|v_proj|v_lin)[./]")
LARGE_TABLE = 1000  # rows: a table of words, not one of places or types
MEASURED_TOKENS = 64
ROUNDS = 15
HOPELESS_MS = 3000.0


@dataclass(frozen=True, slots=True)
class Choice:
    """The precision chosen, what it was chosen by, and the graph to keep for it."""

    precision: Precision
    agreement: float
    milliseconds: float  # one text of MEASURED_TOKENS, the best of ROUNDS
    model: Any


def options(precision: Precision, threads: int = 1) -> dict[str, Any]:
    """How OpenVINO compiles a graph: one thread, not pinned, since other processes share the machine."""
    chosen: dict[str, Any] = {
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
        "ENABLE_CPU_PINNING": False,
        "INFERENCE_PRECISION_HINT": "f32" if precision == "int8" else precision,
    }
    if precision == "int8":
        chosen["DYNAMIC_QUANTIZATION_GROUP_SIZE"] = GROUP
    return chosen


def choose(core: Any, build: Callable[[], Any], embed: Callable[[Any], Vectors]) -> Choice:
    """Times every precision that the CPU has and takes the fastest that agrees with float32.

    `build` gives a fresh float32 graph; `embed` runs a compiled one over the prompts to compare by [n, d].
    Raises `EncoderError` if float32 itself gives no unit vectors: then the weights are broken.
    """
    capabilities = set(core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"))
    offered: list[Precision] = ["f32", "int8"]
    offered += [p for p in ("bf16", "f16") if p.upper() in capabilities]
    timed: list[tuple[float, Precision, Any]] = []
    for precision in offered:
        model = reduced(build(), precision)
        try:
            timed.append((_milliseconds(core.compile_model(model, "CPU", options(precision))), precision, model))
        except RuntimeError as error:
            if precision == "f32":
                raise EncoderError(f"OpenVINO cannot run the encoder's graph: {error}") from error
    exact = next(model for _, precision, model in timed if precision == "f32")
    threads = min(os.cpu_count() or 1, 4)
    reference = embed(core.compile_model(exact, "CPU", options("f32", threads)))
    if not np.allclose(np.linalg.norm(reference, axis=1), 1, atol=1e-3):
        raise EncoderError("the encoder's graph does not give unit vectors: its weights are broken")
    for milliseconds, precision, model in sorted(timed, key=lambda entry: entry[0]):
        if precision == "f32":
            return Choice(precision, 1.0, milliseconds, model)
        vectors = embed(core.compile_model(model, "CPU", options(precision, threads)))
        agreement = neighbour_agreement(reference, vectors)
        if agreement >= AGREEMENT:
            return Choice(precision, agreement, milliseconds, model)
    raise AssertionError("float32 is always among the precisions")


def _milliseconds(compiled: Any) -> float:
    """The best time of one text; infinite where the precision does not work on this CPU."""
    request = compiled.create_infer_request()
    ids, mask = np.ones((1, MEASURED_TOKENS), np.int32), np.ones((1, MEASURED_TOKENS), np.float32)
    times: list[float] = []
    # emulated arithmetic can take seconds: what is that slow need not be timed well
    while len(times) < ROUNDS and sum(times) < HOPELESS_MS:
        start = time.perf_counter()
        request.infer({0: ids, 1: mask}, share_inputs=True)
        times.append((time.perf_counter() - start) * 1e3)
    # seen with compressed weights where the CPU has no VNNI: no error, and no rows
    return min(times) if request.get_output_tensor(0).data.shape[0] == 1 else np.inf


def reduced(model: Any, precision: Precision) -> Any:
    """The graph with constants in int8 where the neighbours stay: it is changed in place.

    For bf16 and f16 the table of words, a scale to a row: of 46 MB in memory it leaves 12. For int8 the
    matrices, `GROUP` weights to a scale (OpenVINO then rounds the activations by groups as it runs); the
    table stays exact there, since both together come too close to `AGREEMENT`. For float32 nothing.
    """
    for node in model.get_ordered_ops():
        kind = node.get_type_name()
        if kind == "Gather" and precision in ("bf16", "f16"):
            table = _matrix(node.input_value(0))
            if table is not None and len(table) >= LARGE_TABLE:
                node.input(0).replace_source_output(_in_int8(table, table.shape[1]).output(0))
        elif kind == "MatMul" and precision == "int8" and node.get_attributes()["transpose_b"]:
            name = node.input_value(1).get_node().get_friendly_name()
            weights = _matrix(node.input_value(1))
            if weights is not None and weights.shape[1] % GROUP == 0 and not TENDER.search(f"/{name}/"):
                node.input(1).replace_source_output(_in_int8(weights, GROUP).output(0))
    return model


def _matrix(output: Any) -> Vectors | None:
    """The values of a constant float32 matrix; None for anything else."""
    node = output.get_node()
    constant = node.get_type_name() == "Constant" and output.get_element_type() == load_openvino().Type.f32
    return np.array(node.data) if constant and len(output.get_partial_shape()) == 2 else None


def _in_int8(weights: Vectors, group: int) -> Any:
    """A matrix as int8, `group` numbers of a row to a scale: a form that the CPU plugin keeps compressed."""
    op = load_openvino().opset13
    shape = weights.shape
    parts = weights if group == shape[1] else weights.reshape(len(weights), -1, group)
    scale = np.maximum(np.abs(parts).max(axis=-1, keepdims=True), 1e-12) / 127
    numbers = np.round(parts / scale).astype(np.int8)
    product = op.multiply(op.convert(op.constant(numbers), "f32"), op.constant(scale.astype(np.float32)))
    return product if parts.ndim == 2 else op.reshape(product, op.constant(np.asarray(shape, np.int64)), False)
