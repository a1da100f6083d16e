"""How close two questions must be to share an answer: a threshold on the cosine, and what is proven of it.

A calibration is one JSON file that `pointsman calibrate-cache` writes: the threshold, the encoder that it is for,
and an upper bound, at 95 % confidence, on the share of hits at it whose answer is wrong.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

import orjson

from router.errors import ConfigError
from router.files import write_whole

FORMAT = 1


class Encodes(Protocol):
    """What identifies an encoder."""

    name: str
    revision: str


@dataclass(frozen=True, slots=True)
class Calibration:
    threshold: float  # least cosine of a hit
    wrong_share: float  # what was to be proven
    wrong_most: float  # what is: the upper bound
    wrong: int  # of the hits
    hits: int
    pairs: int
    encoder: str
    revision: str

    def check(self, encoder: Encodes, wrong_share: float) -> None:
        """Raises `ConfigError` where the calibration is of another encoder, or proves less than is asked."""
        if (self.encoder, self.revision) != (encoder.name, encoder.revision):
            raise ConfigError(
                f"cache.semantic.calibration is of the encoder {self.encoder} ({self.revision}), the policy's is "
                f"{encoder.name} ({encoder.revision}); calibrate again"
            )
        if self.wrong_most > wrong_share:
            raise ConfigError(
                f"cache.semantic.calibration proves at most {self.wrong_most:.4f} of the hits wrong, "
                f"wrong_share is {wrong_share:g}; calibrate with more pairs, or ask for less"
            )


def write_calibration(path: Path, calibration: Calibration) -> None:
    said = {"format": FORMAT, **asdict(calibration)}
    write_whole(path, orjson.dumps(said, option=orjson.OPT_INDENT_2) + b"\n")


def read_calibration(path: Path) -> Calibration:
    """Raises `ConfigError` for a file that cannot be read or that `write_calibration` did not write."""
    try:
        said = orjson.loads(path.read_bytes())
        if said.pop("format") != FORMAT:
            raise ValueError
        found = Calibration(**said)
        numbers = (found.threshold, found.wrong_share, found.wrong_most)
        if not all(isinstance(number, float | int) and 0 <= number <= 1 for number in numbers):
            raise ValueError
    except OSError as error:
        raise ConfigError(f"cache.semantic.calibration: cannot read {path}: {error.strerror}") from error
    except (orjson.JSONDecodeError, AttributeError, KeyError, TypeError, ValueError):
        raise ConfigError(
            f"cache.semantic.calibration: {path} is no calibration of this version; "
            "`pointsman calibrate-cache` writes one"
        ) from None
    return found
