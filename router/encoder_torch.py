"""The way in for encoders that are not of the BERT family: through torch, once, in the exporting process.

Knows nothing of what is served: neither torch nor this module's work is ever in a serving process.
"""

import random
from collections.abc import Iterable
from typing import Any

import numpy as np

from router.encoder_check import sample_prompts
from router.encoder_folder import EncoderFolder
from router.encoder_runtime import load_openvino
from router.errors import EncoderError

LEAST_COSINE = 0.999  # between the converted graph and torch: an export can be silently wrong


def convert(folder: EncoderFolder, reason: str) -> Any:
    """The `openvino.Model` of any sentence-transformers model: ids and mask in, unit vectors out.

    Raises `EncoderError` where torch is missing and where the converted graph does not agree with torch on
    prompts of several lengths. `reason` says why the graph was not written without torch.
    """
    try:
        import torch
        from sentence_transformers import SentenceTransformer
    except ImportError as error:
        raise EncoderError(
            f"encoder {folder.name!r} must be exported through torch, since {reason}, and {error.name} is not "
            "installed: pip install 'pointsman[export]' (without a GPU: pip install torch==2.13.0 first)"
        ) from error

    class Graph(torch.nn.Module):  # type: ignore[misc]
        def __init__(self, model: Any) -> None:
            super().__init__()
            self.model = model

        def forward(self, ids: Any, mask: Any) -> Any:
            inputs = {"input_ids": ids.long(), "attention_mask": mask.long()}
            return torch.nn.functional.normalize(self.model(inputs)["sentence_embedding"], dim=1)

    loaded = SentenceTransformer(
        str(folder.path), device="cpu", local_files_only=True, model_kwargs={"attn_implementation": "eager"}
    )
    prompts = sample_prompts(random.Random(0), 12)
    batches = []
    for texts in (prompts[:1], prompts[1:4], [" ".join(prompts[4:8])], prompts[8:]):
        rows = loaded.tokenizer(texts, padding=True, truncation=True, max_length=folder.window, return_tensors="np")
        batches.append((rows["input_ids"].astype(np.int32), rows["attention_mask"].astype(np.float32)))
    return traced(Graph(loaded.float().eval()).eval(), batches, folder.name)


def traced(graph: Any, batches: Iterable[tuple[Any, Any]], name: str) -> Any:
    """The `openvino.Model` of a torch module: ids [b, t] int32 and mask [b, t] float32 in, unit vectors out.

    Raises `EncoderError` where both disagree on one of `batches`, (ids, mask) of several shapes.
    """
    import torch

    openvino = load_openvino()
    example = {"ids": torch.ones(2, 24, dtype=torch.int32), "mask": torch.ones(2, 24)}
    with torch.no_grad():
        converted = openvino.convert_model(
            graph,
            example_input=example,
            input=[("ids", [-1, -1], openvino.Type.i32), ("mask", [-1, -1], openvino.Type.f32)],
        )
        compiled = openvino.Core().compile_model(converted, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        for ids, mask in batches:
            wanted = graph(torch.from_numpy(ids), torch.from_numpy(mask)).numpy()
            cosine = float((compiled((ids, mask))[0] * wanted).sum(axis=1).min())
            if not cosine >= LEAST_COSINE:
                raise EncoderError(
                    f"encoder {name!r}: the exported graph differs from torch (cosine {cosine:.4f}, "
                    f"at least {LEAST_COSINE} expected); this model cannot be served"
                )
    return converted
