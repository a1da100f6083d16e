"""A report as tables for a terminal."""

from typing import TYPE_CHECKING

from training.interval import Interval
from training.report import Report

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
    from rich.text import Text

    title = Text(f"{report.dataset}: {report.queries:,} queries, {len(report.experts)} experts")
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    for heading in ("choice", "USD/query", "quality", "area", "quality at half cost"):
        table.add_column(heading, justify="left" if heading == "choice" else "right")
    for name, point in (("cheapest", report.cheapest), ("random", report.random), ("best single", report.best)):
        table.add_row(name, f"{point.cost_usd:.3g}", f"{point.quality:.4f}", "", "")
    for name, heading in (("static_mix", "static mix"), ("policy", "policy"), ("oracle", "oracle")):
        half = report.half_cost.get(name)
        table.add_row(heading, "", "", f"{report.area[name].value:.4f}", f"{half.value:.4f}" if half else "")
    console.print(table)
    _show_metrics(report, console)
    for line in (
        f"cheapest: {report.cheapest.expert}; best single: {report.best.expert}, whose half is the half cost",
        f"area above the static mix: {spelled(report.gain, '+.4f')}, p = {report.p_value:.3f} (one-sided)",
        VERDICTS[report.gain.low > 0],
        f"share of the way from it to the oracle: {spelled(report.share, '.3f')}",
        f"the same, by the policy's own expected costs: {spelled(report.own_cost['share'], '.3f')}",
        f"quality above it at half cost: {spelled(report.half_cost['gain'], '+.4f')}",
        f"Brier score {spelled(report.reliability.brier, '.4f')}, calibration error in bins of equal width"
        f" {spelled(report.reliability.ece, '.4f')}, of equal mass {report.ece_equal_mass:.4f}",
        *(f"left out: {name}: {reason}" for name, reason in report.left_out.items()),
    ):
        console.print(line, highlight=False, markup=False)


def _show_metrics(report: Report, console: "Console") -> None:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD)
    for heading in ("metric", "policy", "static mix", "better by", "p, one-sided"):
        table.add_column(heading, justify="left" if heading == "metric" else "right")
    for name, metric in report.metrics.items():
        arrow = "↑" if metric.better == "higher" else "↓"
        policy, gain = spelled(metric.policy, ".3f"), spelled(metric.gain, "+.3f")
        table.add_row(f"{name} {arrow}", policy, f"{metric.static_mix:.3f}", gain, f"{metric.p:.3f}")
    console.print(table, markup=False)


def spelled(interval: Interval, form: str) -> str:
    return f"{interval.value:{form}} [{interval.low:{form}}, {interval.high:{form}}]"
