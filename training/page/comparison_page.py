"""Many policies side by side as a page: for each table who gains what, and who cannot be told from whom."""

from collections.abc import Sequence

from training.comparison import Comparison, Standing
from training.page.document import READING, framed
from training.page.elements import Html, drawing, folded, grid, interval, joined, number, table, tag, usd
from training.page.forest import Panel, forest
from training.page.theme import Chart
from training.standings import CAUTION, told


def comparison_page(comparisons: Sequence[Comparison], notes: Sequence[str]) -> tuple[str, list[Chart]]:
    """The HTML, which asks for nothing from outside, and its charts. `notes` go to the end."""
    title = f"{len(comparisons[0].standings)} policies compared"
    head = joined(
        tag("p", "Pointsman · comparison of policies", "kicker"),
        tag("h1", title, "open"),
        tag("ul", joined(*(tag("li", f"{one.dataset}: {told(one)}") for one in comparisons)), "facts"),
    )
    parts, charts = [tag("header", head)], []
    for place, comparison in enumerate(comparisons, start=1):
        found, chart = _section(comparison, f"comparison-{place}")
        parts.append(found)
        charts.append(chart)
    lines = joined(*(tag("li", line) for line in (CAUTION, *READING)))
    explained = [tag("h2", "How to read it"), tag("ul", lines)]
    if notes:
        explained.append(
            folded(f"Left out ({len(notes)})", tag("ul", joined(*(tag("li", note) for note in notes))))
        )
    return framed(title, [*parts, tag("section", joined(*explained), "small")]), charts


def _section(comparison: Comparison, name: str) -> tuple[Html, Chart]:
    rows = [*comparison.standings, *comparison.yardsticks]
    caption = "Area above the static mix, and how far behind the first. Filled points differ from zero."
    panels = [
        Panel("area above the static mix", [one.gain for one in rows]),
        Panel("behind the first", [None if one is rows[0] else one.behind for one in rows]),
    ]
    chart = forest(name, caption, [one.policy for one in rows], panels)
    size = f"{comparison.queries:,} held-out queries"
    size += f", {comparison.experts} models." if comparison.experts else "."
    singles = [
        [said, point.expert, usd(point.cost_usd), f"{point.quality:.3f}"]
        for said, point in (("cheapest", comparison.cheapest), ("best single", comparison.best))
        if point is not None
    ]
    headings = [
        "policy",
        "area gained",
        "gap closed",
        "by own costs",
        "behind the first",
        "Brier",
        "ECE",
        "training",
    ]
    parts = [
        tag("h2", comparison.dataset),
        tag("p", size, "lead"),
        grid(drawing(chart)),
        table(
            headings,
            [_row(one, first=one is rows[0]) for one in rows],
            f"ECE in bins of equal mass. Oracle: {number(comparison.oracle.value, '+.3f')}.",
        ),
    ]
    if singles:
        parts.append(table(["", "model", "USD per 1,000", "quality"], singles))
    return tag("section", joined(*parts)), chart


def _row(standing: Standing, *, first: bool) -> list[str]:
    return [
        standing.policy,
        interval(standing.gain),
        interval(standing.share, ".1%"),
        interval(standing.own_cost_gain),
        "" if first else interval(standing.behind),
        f"{standing.brier:.3f}",
        f"{standing.ece_equal_mass:.3f}",
        f"{standing.train_s:.1f} s",
    ]
