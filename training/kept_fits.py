"""Fitted policies on disk while a long run is at work: one that was killed goes on with the fits that it finished.

A fit is found by what it depends on: the rows it learned from, the policy with its parameters and seed, the code.
What is damaged, or does not fit the policy, is fitted again. `forget` ends it: fits are kept until a run succeeds,
and those of runs that never went on for `KEPT_S` at most.
"""

import hashlib
import json
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load as load_arrays
from safetensors.numpy import save as save_arrays

from router.artifact import OUTPUT_TOKENS, nested, take, within
from router.errors import ArtifactError
from router.files import write_whole
from router.policy import Policy
from router.types import Outcomes
from training.run_folder import code_version

#: Gives the policy, fitted to the outcomes: itself, or its like.
Fitted = Callable[[Policy, Outcomes], Policy]
SUFFIX = ".fit"
POLICY = "policy"
DIGEST_BYTES = 32
KEPT_S = 7 * 24 * 3600.0
LARGEST = 1 << 29  # bytes: a larger fit is not kept, so that no disk is filled with a million vectors nine times


def afresh(policy: Policy, outcomes: Outcomes) -> Policy:
    """Fits `policy` itself and keeps nothing."""
    return policy.fit(outcomes)


class KeptFits:
    """A `Fitted` that keeps what it fits in `folder`; `resumed` is called with it at the first fit found there.

    What it gives was restored from what is kept, also where it was fitted just now: so a run that was cut off ends
    with the very numbers of one that was not. A full disk or a folder that cannot be made costs the keeping alone.
    """

    def __init__(self, folder: Path, resumed: Callable[[Path], None] = lambda folder: None) -> None:
        self._folder = folder
        self._resumed = resumed
        self._own: set[Path] = set()
        self.found = 0
        with suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
        self._before = {path for path in folder.glob(f"*{SUFFIX}") if not _forgotten(path)}

    def __call__(self, policy: Policy, outcomes: Outcomes) -> Policy:
        path = self._folder / f"{_name(policy, outcomes)}{SUFFIX}"
        self._own.add(path)
        try:
            like = _restored(policy, outcomes.experts, path.read_bytes())
        except (OSError, ArtifactError):
            content = _packed(policy.fit(outcomes))
            if len(content) <= LARGEST:
                with suppress(OSError):
                    write_whole(path, content)
            return _restored(policy, policy.experts_, content)
        if path in self._before:
            self._before.discard(path)
            self.found += 1
            if self.found == 1:
                self._resumed(self._folder)
        return like

    def forget(self) -> None:
        """Removes what this run kept or found."""
        for path in self._own:
            with suppress(OSError):
                path.unlink()


def _forgotten(path: Path) -> bool:
    """Whether the file is too old to be of use; it is then removed."""
    with suppress(OSError):
        if time.time() - path.stat().st_mtime > KEPT_S:
            path.unlink()
            return True
    return False


def _packed(policy: Policy) -> bytes:
    arrays = {**nested(POLICY, policy.state()), OUTPUT_TOKENS: policy.output_tokens_}
    body = save_arrays({name: np.ascontiguousarray(array) for name, array in arrays.items()})
    return hashlib.blake2b(body, digest_size=DIGEST_BYTES).digest() + body


def _restored(policy: Policy, experts: tuple[str, ...], content: bytes) -> Policy:
    """A new policy like `policy`. Raises `ArtifactError` for what is damaged or of another policy."""
    digest, body = content[:DIGEST_BYTES], content[DIGEST_BYTES:]
    if hashlib.blake2b(body, digest_size=DIGEST_BYTES).digest() != digest:
        raise ArtifactError("the fit is damaged")
    try:
        arrays = load_arrays(body)
    except (SafetensorError, ValueError, KeyError) as error:
        raise ArtifactError(f"the fit is not a safetensors file: {error}") from error
    like = type(policy)(**policy.params)
    like.experts_ = experts
    like.output_tokens_ = take(arrays, OUTPUT_TOKENS, (len(experts),))
    like.restore(within(POLICY, arrays))
    return like


def _name(policy: Policy, outcomes: Outcomes) -> str:
    digest = hashlib.blake2b(digest_size=16)
    about = [policy.kind, type(policy).__qualname__, policy.params, code_version()]
    digest.update(json.dumps(about, sort_keys=True, default=repr).encode())
    _feed(digest, outcomes)
    return digest.hexdigest()


def _feed(digest: "hashlib.blake2b", content: Any) -> None:
    """All of a dataclass of arrays and tuples, each part with its name and size."""
    if is_dataclass(content):
        for field in fields(content):
            digest.update(f"/{field.name}".encode())
            _feed(digest, getattr(content, field.name))
    elif isinstance(content, np.ndarray):
        digest.update(f"{content.dtype}{content.shape}".encode())
        digest.update(np.ascontiguousarray(content).data)
    elif isinstance(content, tuple):
        digest.update(f"({len(content)})".encode())
        for item in content:
            text = repr(item).encode("utf-8", "surrogatepass")
            digest.update(f"{len(text)}:".encode() + text)
    else:
        digest.update(repr(content).encode())
