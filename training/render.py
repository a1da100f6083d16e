"""A report as a table for a terminal."""

from typing import TYPE_CHECKING

from training.evaluate import Interval, Report

if TYPE_CHECKING:
    from rich.console import Console


def show(report: Report, console: "Console") -> None:
    """Prints the policy between its bounds, then what the figures rest on."""
    from rich import box
    from rich.table import Table

    title = f"{report.dataset}: {report.queries:,} queries, {len(report.experts)} experts"
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for heading in ("choice", "USD/query", "quality", "area", "quality at half the cost"):
        table.add_column(heading, justify="left" if heading == "choice" else "right", no_wrap=True)
    points = ((f"cheapest: {report.cheapest.expert}", report.cheapest), ("random", report.random))
    for name, point in (*points, (f"best single: {report.best.expert}", report.best)):
        table.add_row(name, f"{point.cost_usd:.3g}", f"{point.quality:.4f}", "", "")
    for name, title in (("static_mix", "static mix"), ("policy", "[bold]policy[/]"), ("oracle", "oracle")):
        half = report.half_cost.get(name)
        table.add_row(title, "", "", _spelled(report.area[name]), _spelled(half) if half else "")
    console.print(table)
    console.print(f"above the static mix: {_spelled(report.gain, sign=True)}", highlight=False)
    console.print(f"of the way from it to the oracle: {_spelled(report.share)}", highlight=False)
    console.print(
        f"at half the best single's cost: {_spelled(report.half_cost['gain'], sign=True)} quality", highlight=False
    )
    console.print(f"Brier score {report.brier:.4f}, calibration error {report.ece:.4f}", highlight=False)
    for name, reason in report.left_out.items():
        console.print(f"[yellow]left out[/] {name}: {reason}", highlight=False)
    for note in report.notes:
        console.print(f"[yellow]note[/] {note}", highlight=False)


def _spelled(interval: Interval, sign: bool = False) -> str:
    form = "+.3f" if sign else ".3f"
    return f"{interval.value:{form}} [{interval.low:{form}}, {interval.high:{form}}]"
