"""An encoder that is being taught, in torch: from a folder, with linear heads over its vector, to a graph.

Knows nothing of what is learned. torch and transformers are imported when a pupil is made.
"""

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from router.artifact import take
from router.encoder_check import sample_prompts
from router.encoder_folder import EncoderFolder
from router.encoder_graph import POOLINGS, foreign, pooling, written
from router.encoder_tokens import Batch, Tokens, valid
from router.encoder_torch import traced
from router.errors import ConfigError, EncoderError
from router.text_model import Reading, native_precision
from router.types import Floats

DROPOUT = 0.1
EVALUATED = 64  # prompts at once where nothing is learned


@dataclass(frozen=True)
class Head:
    """Linear in the unit vector: scores [n, J] = vectors [n, d] @ `weights` [d, J] + `bias` [J]."""

    weights: Floats
    bias: Floats

    def scores(self, vectors: Floats) -> Floats:
        return vectors @ self.weights + self.bias

    def times(self, factor: float) -> "Head":
        return Head(self.weights * np.float32(factor), self.bias * np.float32(factor))

    def state(self) -> dict[str, Floats]:
        return {"weights": self.weights, "bias": self.bias}

    @classmethod
    def restored(cls, state: Mapping[str, NDArray[Any]], size: int) -> "Head":
        return cls(take(state, "weights", (None, size)), take(state, "bias", (size,)))


class Pupil:
    """An encoder and its heads. Raises `ConfigError` without torch, `EncoderError` for a broken model."""

    def __init__(self, folder: EncoderFolder, reading: Reading) -> None:
        self.torch, transformers = _libraries()
        self.folder, self.reading, self.pooling = folder, reading, pooling(folder)
        if self.pooling not in POOLINGS:
            raise EncoderError(f"encoder {folder.name!r}: its pooling {self.pooling!r} cannot be fine-tuned")
        self._tokens = Tokens(reading)
        torch = self.torch
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        try:
            self.encoder = transformers.AutoModel.from_pretrained(
                str(folder.transformer),
                local_files_only=True,
                trust_remote_code=False,
                use_safetensors=True,
                attn_implementation="eager",  # on a CPU the fused one's backward pass takes half of a step
            )
        except (OSError, ValueError, KeyError) as error:
            raise EncoderError(f"encoder {folder.name!r}: {str(error).splitlines()[0]}") from error
        self.encoder.float().to(self.device)
        for module in self.encoder.modules():  # on a CPU it doubles a step's time; the heads have their own
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        # half of all numbers: learning the words anew would take memory and time, for words seen a few times
        self.encoder.get_input_embeddings().weight.requires_grad_(False)
        self.dimension = int(self.encoder.config.hidden_size)
        self._scale = self.dimension**0.5  # heads take vectors whose numbers are of size one

    def attach(self, *sizes: int) -> None:
        """New heads of these many scores each, nearly zero."""
        nn = self.torch.nn
        self.heads = nn.ModuleList([nn.Linear(self.dimension, size) for size in sizes]).to(self.device)
        for head in self.heads:
            nn.init.normal_(head.weight, std=0.01)
            nn.init.zeros_(head.bias)

    def rows(self, prompts: Sequence[str]) -> list[list[int]]:
        return [self._tokens.ids(valid(self._tokens.shorten(prompt))) for prompt in prompts]

    def pooled(self, ids: Any, mask: Any) -> Any:
        """Unit vectors [b, d] of ids [b, t] and mask [b, t]."""
        torch = self.torch
        x = self.encoder(input_ids=ids, attention_mask=mask.long()).last_hidden_state.float()
        if self.pooling == "cls":
            x = x[:, 0]
        elif self.pooling == "max":
            x = x.masked_fill(mask[:, :, None] == 0, -1e4).max(dim=1).values
        else:
            x = (x * mask[:, :, None]).sum(dim=1) / mask.sum(dim=1, keepdim=True)
        return torch.nn.functional.normalize(x, dim=1)

    def scores(self, rows: Sequence[Sequence[int]]) -> list[Any]:
        """Of every head, as logits [b, size]."""
        torch = self.torch
        ids, mask = self._padded(rows)
        with torch.autocast(self.device, self.half or torch.bfloat16, enabled=self.half is not None):
            vector = self.pooled(ids, mask) * self._scale
        kept = torch.nn.functional.dropout(vector, DROPOUT, self.heads.training)
        return [head(kept) for head in self.heads]

    @property
    def half(self) -> Any:
        """The half precision that this device computes in, or None."""
        torch = self.torch
        if self.device == "cuda":
            return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
        return torch.bfloat16 if native_precision() == "bf16" else None

    def vectors(self, prompts: Sequence[str]) -> Floats:
        """Unit vectors [n, d] as the encoder is now."""
        rows = self.rows(prompts)
        result = np.empty((len(rows), self.dimension), np.float32)
        self.encoder.eval()
        with self.torch.no_grad():
            for part in by_length(rows, EVALUATED):
                ids, mask = self._padded([rows[i] for i in part])
                result[part] = self.pooled(ids, mask).cpu().numpy()
        return result

    def _padded(self, rows: Sequence[Sequence[int]]) -> tuple[Any, Any]:
        ids, mask = Batch(tuple(range(len(rows))), max(map(len, rows))).arrays(rows, self.reading.pad_id)
        return tuple(self.torch.from_numpy(array).to(self.device) for array in (ids, mask))

    def graph(self) -> Any:
        """The encoder as it is now, as an `openvino.Model`: ids and mask in, unit vectors out."""
        self.encoder.eval()
        kinds = ("Transformer", "Pooling")
        folder = replace(self.folder, modules=tuple(part for part in self.folder.modules if part[0] in kinds))
        weights = {name: value.float().cpu().numpy() for name, value in self.encoder.state_dict().items()}
        if foreign(folder) is None:
            return written(folder, weights)
        import torch

        pupil = self
        self.encoder.to("cpu")

        class Graph(torch.nn.Module):  # type: ignore[misc]
            def __init__(self) -> None:
                super().__init__()
                self.encoder = pupil.encoder

            def forward(self, ids: Any, mask: Any) -> Any:
                return pupil.pooled(ids.long(), mask)

        rows = self.rows(sample_prompts(random.Random(0), 12))
        parts = [rows[:1], rows[1:4], rows[4:]]
        tried = [Batch(tuple(range(len(p))), max(map(len, p))).arrays(p, self.reading.pad_id) for p in parts]
        return traced(Graph().eval(), tried, self.folder.name)

    def head(self, number: int) -> Head:
        """A head over unit vectors."""
        layer = self.heads[number]
        weights, bias = (value.detach().float().cpu().numpy() for value in (layer.weight, layer.bias))
        return Head(np.ascontiguousarray(weights.T * self._scale), bias.copy())


def by_length(rows: Sequence[Sequence[int]], size: int) -> Iterator[NDArray[np.intp]]:
    order = np.argsort([len(row) for row in rows], kind="stable")
    return (order[at : at + size] for at in range(0, len(order), size))


def _libraries() -> tuple[Any, Any]:
    try:
        import torch
        import transformers
    except ImportError as error:
        raise ConfigError(
            f"fine-tuning an encoder needs {error.name}, which is not installed: pip install 'pointsman[neural]' "
            "(without a GPU: pip install torch==2.13.0 first); a policy that was trained needs neither"
        ) from error
    # of weights that only other heads would need, and of the progress of reading a file
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    return torch, transformers
