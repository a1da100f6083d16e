"""Which of the experts that a policy knows is meant by a name: its spelling, its like, or its tier."""

import difflib
import re
from collections.abc import Sequence

from router.errors import ConfigError
from router.types import ExpertSpec, tier_column

TIER_MARK = tier_column("")


def columns(known: Sequence[str], specs: Sequence[ExpertSpec]) -> list[int]:
    """For each expert of the pool, the artifact's expert that it is taken for: its name, else `like`, else `tier`.

    Raises `ConfigError` naming the expert, what was looked for and the choices.
    """
    return [_column(known, spec) for spec in specs]


def find(name: str, known: Sequence[str]) -> int | None:
    """Which of `known` is meant by `name`, or None.

    The same spelling first; then the same but for the provider in front, case and punctuation; then the same but
    for the date or revision at the end, of which the latest is taken: `openai/gpt-4o` finds `gpt-4o-2024-08-06`.
    """
    for simplify in (str, _canonical, _undated):
        wanted = simplify(name)
        if matches := [candidate for candidate in known if simplify(candidate) == wanted]:
            return known.index(max(matches))
    return None


def _column(known: Sequence[str], spec: ExpertSpec) -> int:
    wanted = [spec.name, *([spec.like] if spec.like else []), *([tier_column(spec.tier)] if spec.tier else [])]
    for name in wanted:
        column = find(name, known)
        if column is not None:
            return column
    models = [name for name in known if not name.startswith(TIER_MARK)]
    tiers = [name.removeprefix(TIER_MARK) for name in known if name.startswith(TIER_MARK)]
    close = {
        near for name in wanted for near in difflib.get_close_matches(_canonical(name), models, n=3, cutoff=0.5)
    }
    raise ConfigError(
        f"expert {spec.name!r}: the policy's artifact knows no {' nor '.join(repr(name) for name in wanted)}"
        + (f"; did you mean like: {' or '.join(sorted(close))}?" if close else "")
        + (f"; tier: one of {', '.join(tiers)}" if tiers else "; this artifact knows no tiers")
        + f"; like: one of {', '.join(sorted(models))}"
    )


def _canonical(name: str) -> str:
    return re.sub(r"[^a-z0-9:]+", "-", name.rpartition("/")[2].lower())


def _undated(name: str) -> str:
    """Without a date (20241022, 2024-08-06), a short revision (0125, 002) or a word for the newest at the end."""
    return re.sub(r"(-(20\d{6}|20\d\d-\d\d-\d\d|[01]\d{3}|00\d|latest|preview|beta))+$", "", _canonical(name))
