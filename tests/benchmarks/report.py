"""How every benchmark reports: a table for the reader, `build/bench/NAME.json` for machines.

`holds` is True or False against the goal, and None where there is no goal or nothing could be measured.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from rich.console import Console
from rich.table import Table

BENCH_DIR = Path(__file__).resolve().parents[2] / "build" / "bench"
VERDICTS = {True: "[green]holds[/]", False: "[red]fails[/]", None: ""}


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured number. `low` and `high` bound it (rounds or bootstrap); `value` None: not measured.

    `goal` is in words (">= 30", "< 5.5"): the comparison is `holds`, made by whoever measured.
    """

    name: str
    value: float | None
    low: float | None = None
    high: float | None = None
    unit: str = ""
    goal: str | None = None
    holds: bool | None = None


def judged(figure: Figure) -> Figure:
    """The same figure with `holds` worked out from a goal of one comparison, such as "< 5.5" or ">= 30"."""
    if figure.goal is None or figure.value is None:
        return replace(figure, holds=None)
    sign, bound = figure.goal.split()
    comparisons = {
        "<": figure.value < float(bound),
        "<=": figure.value <= float(bound),
        ">": figure.value > float(bound),
        ">=": figure.value >= float(bound),
    }
    return replace(figure, holds=comparisons[sign])


def report(name: str, figures: Sequence[Figure]) -> None:
    """Prints the table and writes `build/bench/NAME.json`, a list of objects with the fields of `Figure`."""
    table = Table(title=f"bench-{name}", title_justify="left")
    for heading in ("figure", "value", "low", "high", "unit", "goal", ""):
        numeric = heading in ("value", "low", "high")
        table.add_column(heading, justify="right" if numeric else "left", no_wrap=numeric)
    for figure in figures:
        verdict = "[yellow]not measured[/]" if figure.value is None else VERDICTS[figure.holds]
        numbers = (_shown(figure.value), _shown(figure.low), _shown(figure.high))
        table.add_row(figure.name, *numbers, figure.unit, figure.goal or "", verdict)
    console = Console()
    (console if console.is_terminal else Console(width=150)).print(table)
    keep(name, figures)


def keep(name: str, figures: Sequence[Figure]) -> None:
    """Writes `build/bench/NAME.json` without a word."""
    BENCH_DIR.mkdir(parents=True, exist_ok=True)
    path = BENCH_DIR / f"{name}.json"
    path.write_text(json.dumps([asdict(figure) for figure in figures], indent=2) + "\n", encoding="utf-8")


def _shown(number: float | None) -> str:
    if number is None:
        return ""
    return f"{number:,.0f}" if abs(number) >= 1000 else f"{number:.4g}"
