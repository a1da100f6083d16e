"""A trained policy on disk: one folder with `state.safetensors` and, written last, `policy.json`.

Numbers and names only: no pickle, no prompt. `policy.json` carries the digest of the arrays and its own, so one
flipped bit in either file is an `ArtifactError` that names the file.
"""

import hashlib
import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError
from safetensors.numpy import load as load_arrays
from safetensors.numpy import save as save_arrays

from router.errors import ArtifactError
from router.files import flush_folder, swap_folders
from router.policy import Policy
from router.stepped import Stepped
from router.steps import step_class
from router.steps.base import Step
from router.types import Floats, Queries, Trial

FORMAT = 1
STATE = "state.safetensors"
HEADER = "policy.json"

POLICY = "policy."
OUTPUT_TOKENS = "experts.output_tokens"
REFERENCE = "reference.embeddings"
REFERENCE_TOKENS = "reference.input_tokens"
REFERENCE_FEATURES = "reference.features"  # only there where the policy reads features of the prompts
STEP = "step"
TRIAL = "trial"
UNSEEN = -1.0  # a trial's quality where none was observed


class EncoderStamp(BaseModel):
    """Which encoder made the vectors that a policy was trained on."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    revision: str
    dimension: int = Field(ge=1)

    def __str__(self) -> str:
        return f"{self.name!r} (revision {self.revision}, {self.dimension} dimensions)"


class _Header(BaseModel):
    """`policy.json`, in the order in which it is written."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1]
    kind: str
    params: dict[str, Any]
    experts: tuple[str, ...] = Field(min_length=1)
    encoder: EncoderStamp | None
    data_digest: str
    metrics: dict[str, Any]
    steps: tuple[str, ...] = ()
    state_sha256: str = Field(pattern="^[0-9a-f]{64}$")
    digest: str = Field(pattern="^[0-9a-f]{64}$")


@dataclass(frozen=True)
class Artifact:
    """A trained policy, ready to be saved or restored.

    `state` is what the policy's own `state()` gave. `reference` is a sample of m training queries: their vectors
    and lengths, from which a router finds the prices of quality for its pool. `encoder` is None for a policy that
    never reads the query; its reference vectors are then [m, 0]. `steps` follow the policy's own estimate; the
    experts that they add are the last. `trial` is what guarantees are made from. `version` is empty until saved or
    loaded.
    """

    kind: str
    params: Mapping[str, Any]
    experts: tuple[str, ...]
    state: Mapping[str, NDArray[Any]]
    output_tokens: Floats  # [K]
    reference: Queries
    encoder: EncoderStamp | None
    data_digest: str
    metrics: Mapping[str, Any] = field(default_factory=dict)
    steps: tuple[Step, ...] = ()
    trial: Trial | None = None
    version: str = ""

    def restore(self, policy: Policy) -> Policy:
        """Gives `policy`, built with `params`, what was learned. Raises `ArtifactError`."""
        own = len(self.experts) - sum(step.adds for step in self.steps)
        policy.experts_ = self.experts[:own]
        policy.output_tokens_ = self.output_tokens[:own]
        policy.restore(self.state)
        return Stepped(policy, self.steps, self.experts, self.output_tokens) if self.steps else policy


def pack(
    policy: Policy,
    reference: Queries,
    *,
    encoder: EncoderStamp | None,
    data_digest: str,
    metrics: Mapping[str, Any],
    trial: Trial | None = None,
) -> Artifact:
    """What `save` writes of a fitted policy and of the steps that follow it."""
    return Artifact(
        kind=policy.kind,
        params=policy.params,
        experts=policy.experts_,
        state=policy.state(),
        output_tokens=policy.output_tokens_,
        reference=reference,
        encoder=encoder if policy.reads_query else None,
        data_digest=data_digest,
        metrics=metrics,
        steps=policy.steps if isinstance(policy, Stepped) else (),
        trial=trial,
    )


def save(artifact: Artifact, folder: Path) -> str:
    """Writes the folder and returns the artifact's version.

    Atomic: both files are written and flushed in a sibling folder that then takes the place of `folder`, so a full
    disk or a kill leaves the artifact that was there. Raises `ArtifactError`, also where `folder` holds anything
    that is not an artifact's, since it would be lost.
    """
    folder = folder.resolve()
    header, state = _encode(artifact)
    if folder.exists():
        _check_replaceable(folder)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as temporary:
            fresh = Path(temporary) / "fresh"
            fresh.mkdir()
            (fresh / STATE).write_bytes(state)
            (fresh / HEADER).write_bytes(header)
            flush_folder(fresh)
            swap_folders(fresh, folder)
    except OSError as error:
        raise ArtifactError(f"cannot write the artifact {folder}: {error}") from error
    return _version(header)


def version_of(folder: Path) -> str:
    """The version of the artifact in a folder, from its header alone. Raises `ArtifactError`."""
    return _version(_read(folder / HEADER))


def load(folder: Path) -> Artifact:
    """Reads and checks everything. Raises `ArtifactError` naming the file and what was expected."""
    header_path, state_path = folder / HEADER, folder / STATE
    raw = _read(header_path)
    header = _parse(header_path, raw)
    state = _read(state_path)
    if hashlib.sha256(state).hexdigest() != header.state_sha256:
        raise ArtifactError(f"{state_path} is damaged: its digest is not the one in {HEADER}")
    try:
        arrays = load_arrays(state)
    except (SafetensorError, ValueError, KeyError) as error:
        raise ArtifactError(f"{state_path} is not a safetensors file: {error}") from error
    for name, array in arrays.items():
        if array.dtype.kind not in "fiu" or not np.isfinite(array).all():
            raise ArtifactError(f"{state_path}: {name} must hold finite numbers")
    experts = len(header.experts)
    dimension = header.encoder.dimension if header.encoder else 0
    try:
        reference = take(arrays, REFERENCE, (None, dimension))
        return Artifact(
            kind=header.kind,
            params=header.params,
            experts=header.experts,
            state={name.removeprefix(POLICY): a for name, a in arrays.items() if name.startswith(POLICY)},
            output_tokens=take(arrays, OUTPUT_TOKENS, (experts,)),
            reference=Queries(
                embeddings=reference,
                input_tokens=take(arrays, REFERENCE_TOKENS, (len(reference),)),
                features=take(arrays, REFERENCE_FEATURES, (len(reference), None))
                if REFERENCE_FEATURES in arrays
                else None,
            ),
            encoder=header.encoder,
            data_digest=header.data_digest,
            metrics=header.metrics,
            steps=_steps(header.steps, arrays),
            trial=_trial(arrays, experts) if f"{TRIAL}.quality" in arrays else None,
            version=_version(raw),
        )
    except ArtifactError as error:
        raise ArtifactError(f"{state_path}: {error}") from error


def _steps(kinds: Sequence[str], arrays: Mapping[str, NDArray[Any]]) -> tuple[Step, ...]:
    return tuple(step_class(kind).restored(within(f"{STEP}.{place}", arrays)) for place, kind in enumerate(kinds))


def _trial(arrays: Mapping[str, NDArray[Any]], experts: int) -> Trial:
    state = within(TRIAL, arrays)
    quality = take(state, "quality", (None, experts))
    shape = quality.shape
    observed = take(state, "observed", shape)
    return Trial(
        quality=quality,
        output_tokens=take(state, "output_tokens", shape),
        input_tokens=take(state, "input_tokens", shape[:1]),
        observed=np.where(observed == UNSEEN, np.nan, observed),
    )


def take(state: Mapping[str, NDArray[Any]], name: str, shape: tuple[int | None, ...]) -> Floats:
    """The array `name` as float32, which must have `shape` (None: any length). Raises `ArtifactError`."""
    if name not in state:
        raise ArtifactError(f"the array {name!r} is missing; there are: {', '.join(sorted(state)) or 'none'}")
    found = state[name].shape
    if len(found) != len(shape) or any(
        want is not None and want != have for want, have in zip(shape, found, strict=True)
    ):
        wanted = ", ".join("any" if want is None else str(want) for want in shape)
        raise ArtifactError(f"the array {name!r} has the shape {list(found)}, expected [{wanted}]")
    return np.ascontiguousarray(state[name], dtype=np.float32)


def nested(name: str, state: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """The arrays of a part, under the part's name."""
    return {f"{name}.{key}": array for key, array in state.items()}


def within(name: str, state: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """The arrays of a part, under their own names: what `nested` was given."""
    return {key.removeprefix(f"{name}."): array for key, array in state.items() if key.startswith(f"{name}.")}


def check_encoder(artifact: Artifact, name: str, revision: str, dimension: int) -> None:
    """Raises `ArtifactError`, naming both, where the loaded encoder is not the one of the training."""
    if artifact.encoder is None:
        return
    loaded = EncoderStamp(name=name, revision=revision, dimension=dimension)
    if loaded != artifact.encoder:
        raise ArtifactError(
            f"the artifact was trained on the encoder {artifact.encoder}, but the loaded encoder is {loaded}; "
            "set encoder.model to the first, or train an artifact with the second"
        )


def _check_replaceable(folder: Path) -> None:
    if not folder.is_dir():
        raise ArtifactError(f"{folder} is a file; an artifact is written as a folder")
    others = sorted({path.name for path in folder.iterdir()} - {STATE, HEADER})
    if others:
        raise ArtifactError(
            f"{folder} holds {others[0]!r}, which is no artifact's file and would be lost: choose another"
        )


def _encode(artifact: Artifact) -> tuple[bytes, bytes]:
    arrays: dict[str, NDArray[Any]] = {POLICY + name: array for name, array in artifact.state.items()}
    arrays[OUTPUT_TOKENS] = artifact.output_tokens.astype(np.float32)
    arrays[REFERENCE] = artifact.reference.embeddings.astype(np.float16)
    arrays[REFERENCE_TOKENS] = artifact.reference.input_tokens.astype(np.float32)
    if artifact.reference.features is not None:
        arrays[REFERENCE_FEATURES] = artifact.reference.features.astype(np.float16)
    for place, step in enumerate(artifact.steps):
        arrays |= nested(f"{STEP}.{place}", step.state())
    if (trial := artifact.trial) is not None:
        observed = np.where(np.isfinite(trial.observed), trial.observed, UNSEEN)
        arrays |= {
            f"{TRIAL}.quality": trial.quality.astype(np.float16),
            f"{TRIAL}.output_tokens": trial.output_tokens.astype(np.float32),
            f"{TRIAL}.input_tokens": trial.input_tokens.astype(np.float32),
            f"{TRIAL}.observed": observed.astype(np.float16),
        }
    for name, array in arrays.items():
        assert np.isfinite(array).all(), f"{name} holds a number that is not finite"
    state = save_arrays({name: np.ascontiguousarray(array) for name, array in arrays.items()})
    header = _Header(
        format=FORMAT,
        kind=artifact.kind,
        params=dict(artifact.params),
        experts=artifact.experts,
        encoder=artifact.encoder,
        data_digest=artifact.data_digest,
        metrics=dict(artifact.metrics),
        steps=tuple(step.kind for step in artifact.steps),
        state_sha256=hashlib.sha256(state).hexdigest(),
        digest="0" * 64,
    )
    text = json.dumps(header.model_dump(), indent=1, allow_nan=False, ensure_ascii=False) + "\n"
    blank = text.encode()
    return _with_digest(blank, hashlib.sha256(blank).hexdigest()), state


def _with_digest(header: bytes, digest: str) -> bytes:
    """The header with its own digest, its last key, set to `digest`."""
    before, key, _ = header.rpartition(b'"digest": "')
    return before + key + digest.encode() + b'"\n}\n'


def _parse(path: Path, raw: bytes) -> _Header:
    try:
        content = json.loads(raw)
    except ValueError as error:
        raise ArtifactError(f"{path} is not JSON: {error}") from error
    found = content.get("format") if isinstance(content, dict) else None
    if found != FORMAT:
        raise ArtifactError(f"{path}: format {found!r}; this version reads format {FORMAT}")
    try:
        header = _Header.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise ArtifactError(f"{path}: {key}: {first['msg']}") from error
    if raw != _with_digest(raw, header.digest) or _own_digest(raw) != header.digest:
        raise ArtifactError(f"{path} is damaged or was edited: its content does not fit its own digest")
    if len(set(header.experts)) < len(header.experts):
        raise ArtifactError(f"{path}: experts: a name is given twice")
    return header


def _own_digest(header: bytes) -> str:
    return hashlib.sha256(_with_digest(header, "0" * 64)).hexdigest()


def _version(header: bytes) -> str:
    """Covers both files, since the header carries the digest of the arrays."""
    return _own_digest(header)[:8]


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ArtifactError(
            f"cannot read {path}: {error.strerror}; an artifact is a folder with {HEADER} and {STATE}"
        ) from error
