"""A policy as portable files, for code that is not ours.

Three things are enough to use a policy elsewhere, and all are written:

- every learned array under its own name (`policy.NAME`), for who implements the policy's few lines again;
- the policy's answers on its reference queries (`reference.quality` and `reference.std`, [m, K], beside
  `reference.embeddings`, [m, d]), from which any policy can be followed by its nearest neighbours alone;
- a card in JSON: kind, parameters, experts in the order of the columns, the encoder that makes the vectors,
  metrics, and what each array is.
"""

import hashlib
import io
import json
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from policies import load_policy
from router.artifact import Artifact
from router.errors import DataError
from router.files import write_whole
from router.policy import Policy

POLICY = "policy."
QUALITY, STD = "reference.quality", "reference.std"
EMBEDDINGS, LENGTHS, OUTPUT_TOKENS = "reference.embeddings", "reference.input_tokens", "output_tokens"
ABOUT = {
    QUALITY: "the policy's expected quality in [0, 1] of each expert on each reference query, [m, K]",
    STD: "its uncertainty, [m, K]",
    EMBEDDINGS: "unit vectors of a sample of training queries, [m, d]; no column if the policy reads no query",
    LENGTHS: "their tokens, [m]",
    OUTPUT_TOKENS: "expected tokens of an answer, [K]",
}


def export_npz(folder: Path, out: Path) -> list[Path]:
    """Writes `out` (NumPy's npz, no pickle) and its card beside it, ending in .json; gives back both paths.

    Raises `ArtifactError`, or `DataError` where a file cannot be written.
    """
    policy, artifact = load_policy(folder)
    arrays: dict[str, Any] = _arrays(policy, artifact)
    content = io.BytesIO()
    np.savez_compressed(content, **arrays)
    card_path = out.with_suffix(".json")
    card = _card(artifact, arrays) | {"arrays_sha256": hashlib.sha256(content.getvalue()).hexdigest()}
    _write(out, content.getvalue())
    _write(card_path, (json.dumps(card, indent=1, ensure_ascii=False) + "\n").encode())
    return [out, card_path]


def export_csv(folder: Path, out: Path) -> list[Path]:
    """Writes the tables that have a column per expert as one CSV: `table`, `row`, then the experts.

    `mean_quality`, `mean_std` (over the reference queries) and `output_tokens` have one row each; a learned array
    whose last axis is as long as there are experts has one per cluster, neighbour or factor.
    """
    import csv

    policy, artifact = load_policy(folder)
    arrays = _arrays(policy, artifact)
    tables = {
        "mean_quality": arrays[QUALITY].mean(axis=0),
        "mean_std": arrays[STD].mean(axis=0),
        OUTPUT_TOKENS: arrays[OUTPUT_TOKENS],
        **{
            name.removeprefix(POLICY): array
            for name, array in arrays.items()
            if name.startswith(POLICY) and array.ndim in (1, 2) and array.shape[-1] == len(artifact.experts)
        },
    }
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["table", "row", *artifact.experts])
    for name, table in tables.items():
        for row, values in enumerate(np.atleast_2d(table)):
            writer.writerow([name, row, *(f"{value:.6g}" for value in values.tolist())])
    _write(out, text.getvalue().encode())
    return [out]


def _arrays(policy: Policy, artifact: Artifact) -> dict[str, NDArray[Any]]:
    estimate = policy.predict(artifact.reference)
    return {
        **{POLICY + name: np.asarray(array) for name, array in artifact.state.items()},
        QUALITY: np.asarray(estimate.quality, dtype=np.float32),
        STD: np.asarray(estimate.std, dtype=np.float32),
        EMBEDDINGS: artifact.reference.embeddings,
        LENGTHS: artifact.reference.input_tokens,
        OUTPUT_TOKENS: artifact.output_tokens,
    }


def _card(artifact: Artifact, arrays: Mapping[str, NDArray[Any]]) -> dict[str, Any]:
    encoder = artifact.encoder
    return {
        "kind": artifact.kind,
        "version": artifact.version,
        "params": dict(artifact.params),
        "experts": list(artifact.experts),
        "encoder": encoder.model_dump() if encoder else None,
        "query": "the text of the last user message, embedded to a unit vector" if encoder else "not read",
        "policy": (import_module(f"policies.{artifact.kind}").__doc__ or "").strip(),
        "metrics": dict(artifact.metrics),
        "data_digest": artifact.data_digest,
        "arrays": {
            name: {"shape": list(array.shape), "dtype": str(array.dtype), "what": ABOUT.get(name, "learned")}
            for name, array in arrays.items()
        },
    }


def _write(path: Path, content: bytes) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, content)
    except OSError as error:
        raise DataError(f"cannot write {path}: {error.strerror or error}") from error
