"""Which embedding expert a text is for: the one whose pilots are closest on average.

RouterRetriever (Lee et al., 2024): every expert has pilot vectors, each the centroid of the texts of one domain
that it is best at, all of one encoder; a query goes to the expert of the highest mean similarity. An expert comes
or goes with its pilots, and nothing is trained. Only experts whose vectors can be compared may stand in for each
other: that is the gateway's to see to.

One safetensors file: `vectors` [P, d], unit length, and in its metadata, as JSON, whose each one is and the
encoder.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from router.errors import ConfigError
from router.files import write_whole
from router.types import Floats

FORMAT = "pilots-1"


@dataclass(frozen=True, slots=True)
class Pilots:
    """`owners[p]` is the expert whose pilot `vectors[p]` is."""

    owners: tuple[str, ...]
    vectors: Floats  # [P, d]
    encoder: str
    revision: str

    @classmethod
    def of(cls, texts: Mapping[tuple[str, str], Floats], encoder: str, revision: str) -> "Pilots":
        """`texts` are the vectors [n, d] of an expert's texts of one domain, by (expert, domain)."""
        means = np.stack([vectors.mean(axis=0) for vectors in texts.values()])
        means /= np.maximum(np.linalg.norm(means, axis=1, keepdims=True), 1e-9)
        return cls(tuple(expert for expert, _ in texts), means.astype(np.float32), encoder, revision)

    def closeness(self, vectors: Sequence[Floats]) -> dict[str, float]:
        """Every expert's mean cosine, over its pilots and over the texts."""
        cosine = (self.vectors @ np.stack(vectors).T).mean(axis=1)
        owners = np.array(self.owners)
        return {name: float(cosine[owners == name].mean()) for name in dict.fromkeys(self.owners)}

    def check(self, encoder: str, revision: str, experts: Sequence[str]) -> None:
        """Raises `ConfigError` where they are another encoder's, or of an expert that is not there."""
        if (self.encoder, self.revision) != (encoder, revision):
            raise ConfigError(
                f"embeddings.pilots are of the encoder {self.encoder} ({self.revision}), the policy's is "
                f"{encoder} ({revision}); make them anew with `pointsman pilots`"
            )
        for name in self.owners:
            if name not in experts:
                there = ", ".join(experts) or "none"
                raise ConfigError(f"embeddings.pilots: no embedding expert is called {name!r}; there are: {there}")

    def write(self, path: Path) -> None:
        said = {"format": FORMAT, "owners": self.owners, "encoder": self.encoder, "revision": self.revision}
        write_whole(path, save({"vectors": self.vectors}, {"pointsman": orjson.dumps(said).decode()}))

    @classmethod
    def read(cls, path: Path) -> "Pilots":
        """Raises `ConfigError` for a file that cannot be read or that `write` did not write."""
        try:
            with safe_open(path, framework="np") as file:
                said: dict[str, Any] = orjson.loads((file.metadata() or {})["pointsman"])
                vectors = np.asarray(file.get_tensor("vectors"), dtype=np.float32)
            if said["format"] != FORMAT or len(said["owners"]) != len(vectors) or vectors.ndim != 2:
                raise ValueError
            return cls(tuple(map(str, said["owners"])), vectors, str(said["encoder"]), str(said["revision"]))
        except OSError as error:
            raise ConfigError(f"embeddings.pilots: cannot read {path}: {error.strerror or error}") from error
        except (SafetensorError, KeyError, TypeError, ValueError):
            raise ConfigError(
                f"embeddings.pilots: {path} is no file of pilots; `pointsman pilots` writes one"
            ) from None
