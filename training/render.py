"""A report as a table for a terminal."""

from typing import TYPE_CHECKING

from training.evaluate import Interval, Report

if TYPE_CHECKING:
    from rich.console import Console


VERDICTS = {
    True: "the policy beats the static mix on these queries",
    False: "the policy does NOT provably beat the static mix: a fixed choice of models may do as well",
}


def show(report: Report, console: "Console") -> None:
    """Prints the policy between its bounds, what of it is certain, and what was left out."""
    from rich import box
    from rich.table import Table

    title = f"{report.dataset}: {report.queries:,} queries, {len(report.experts)} experts"
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    for heading in ("choice", "USD/query", "quality", "area", "quality at half cost"):
        table.add_column(heading, justify="left" if heading == "choice" else "right")
    for name, point in (("cheapest", report.cheapest), ("random", report.random), ("best single", report.best)):
        table.add_row(name, f"{point.cost_usd:.3g}", f"{point.quality:.4f}", "", "")
    for name, heading in (("static_mix", "static mix"), ("policy", "policy"), ("oracle", "oracle")):
        half = report.half_cost.get(name)
        table.add_row(heading, "", "", f"{report.area[name].value:.4f}", f"{half.value:.4f}" if half else "")
    console.print(table)
    for line in (
        f"cheapest: {report.cheapest.expert}; best single: {report.best.expert}, whose half is the half cost",
        f"area above the static mix: {_spelled(report.gain, '+.4f')}",
        VERDICTS[report.gain.low > 0],
        f"share of the way from it to the oracle: {_spelled(report.share, '.3f')}",
        f"the same, by the policy's own expected costs: {_spelled(report.own_cost['share'], '.3f')}",
        f"quality above it at half cost: {_spelled(report.half_cost['gain'], '+.4f')}",
        f"Brier score {report.brier:.4f}, calibration error {report.ece:.4f}",
        *(f"left out: {name}: {reason}" for name, reason in report.left_out.items()),
    ):
        console.print(line, highlight=False, markup=False)


def _spelled(interval: Interval, form: str) -> str:
    return f"{interval.value:{form}} [{interval.low:{form}}, {interval.high:{form}}]"
