"""A comparison of policies as one table for a terminal."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from training.comparison import Comparison, Standing
from training.interval import Interval

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

LEGEND = (
    "ECE is over bins of equal mass. gain: the area above the static mix, in brackets 95 % of its bootstrap over "
    "prompts; how far one is behind the first is told on the same resamples."
)
CAUTION = "The first was chosen by these prompts: its own figure flatters it."


def show(
    comparisons: Sequence[Comparison], console: "Console", *, caution: bool, names: Mapping[str, str] | None = None
) -> None:
    """One section per table, the best policy first, then what it is held against.

    With `caution` where these rows choose the first; policies that are in `names` are called so.
    """
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("policy", overflow="fold")
    for heading in ("gain", "share", "behind the first", "ECE", "train"):
        table.add_column(heading, justify="right", no_wrap=True)
    for comparison in comparisons:
        _section(_called(comparison, names or {}), table)
    console.print(table)
    for comparison in comparisons:
        line = f"{comparison.dataset}: {told(_called(comparison, names or {}))}"
        console.print(line, highlight=False, markup=False)
    console.print(f"{LEGEND} {CAUTION}" if caution else LEGEND, highlight=False)


def _called(comparison: Comparison, names: Mapping[str, str]) -> Comparison:
    called = [replace(found, policy=names.get(found.policy, found.policy)) for found in comparison.standings]
    return replace(comparison, standings=called)


def _section(comparison: Comparison, table: "Table") -> None:
    experts = f"{comparison.experts} experts" if comparison.experts else ""
    table.add_section()
    table.add_row(f"[bold]{comparison.dataset}[/]", f"{comparison.queries:,} prompts", "", experts)
    for place, standing in enumerate(comparison.standings, 1):
        colour = "green" if standing.gain.low > 0 else "red" if standing.gain.high < 0 else "default"
        table.add_row(f"{place}. [{colour}]{standing.policy}[/]", *_figures(standing, first=place == 1))
    for standing in comparison.yardsticks:
        table.add_row(f"   [dim]{standing.policy}[/]", *_figures(standing, first=False)[:4])
    table.add_row("   [dim]static mix[/]", "0", "0")
    table.add_row("   [dim]oracle[/]", spelled(comparison.oracle), "1")


def _figures(standing: Standing, *, first: bool) -> tuple[str, ...]:
    behind, error = "" if first else spelled(standing.behind), f"{standing.ece_equal_mass:.3f}"
    return spelled(standing.gain), _short(standing.share.value), behind, error, _time(standing.train_s)


def _time(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 100 else f"{seconds / 60:.0f} min"


def spelled(interval: Interval) -> str:
    """So short that two of them fit on a line: +.012 [-.003 +.031]."""
    return f"{_short(interval.value)} [{_short(interval.low)} {_short(interval.high)}]"


def _short(number: float) -> str:
    return f"{number:+.3f}".replace("0.", ".", 1) if abs(number) < 1 else f"{number:+.3f}"


def told(comparison: Comparison) -> str:
    """Who beats the static mix beyond doubt, who is level with the first, and what always one model would do."""
    best = comparison.best
    single = f"; best single: {best.expert}, {best.quality:.4f} for {best.cost_usd:.3g} USD" if best else ""
    sure = [standing.policy for standing in comparison.standings if standing.gain.low > 0]
    if not sure:
        return f"no policy provably beats the static mix: a fixed choice of models may do as well{single}"
    level = [standing.policy for standing in comparison.standings[1:] if standing.behind.high >= 0]
    close = f"{', '.join(level)} cannot be told from the first" if level else "the first is ahead of all others"
    return f"{', '.join(sure)} beat{'s' if len(sure) == 1 else ''} the static mix; {close}{single}"
