"""The charts of one evaluation: cost against quality, the gain, calibration, and who gets what."""

from typing import Any

import numpy as np

from training.page.elements import number
from training.page.theme import LIGHT, ON_PART, PARTS, TYPE, Chart, canvas, finished, shortened
from training.report import Report

INCHES = (5.6, 3.7)
PER_1000 = 1_000  # costs are shown per 1,000 queries
DECADE = 8  # from this ratio of the dearest to the cheapest, costs are on a log scale
SYSTEMS = (("oracle", "oracle", "-"), ("static_mix", "mix", "--"), ("policy", "policy", "-"))  # name, colour, line
NAMED = 6  # experts with a colour of their own
CELLS = 9  # experts that get a column by domain
FRAMED = 5  # per cent of the best model's cost: what happens below does not stretch the chart


def cost_quality(report: Report, name: str) -> Chart:
    caption = "Quality for what is spent, the policy between its bounds. Points are single models."
    with canvas(*INCHES) as figure:
        axis = figure.subplots()
        _cost_axis(axis, report)
        costs = [PER_1000 * point.cost_usd for point in report.singles]
        axis.plot(costs, [point.quality for point in report.singles], "o", color=LIGHT["single"], markersize=4)
        for system, colour, style in SYSTEMS:
            cost, low, high = np.array(report.bands[system]).T
            axis.fill_between(PER_1000 * cost, low, high, color=LIGHT[colour], alpha=0.16, linewidth=0)
            reached = _at(report, system, cost)
            axis.plot(PER_1000 * cost, reached, style, color=LIGHT[colour], label=system.replace("_", " "))
        corners = {quality for _, quality in report.curves["static_mix"]}
        for point in [point for point in report.singles if point.quality in corners][-4:]:
            best = point.expert == report.best.expert
            axis.annotate(
                shortened(point.expert, 24),
                (PER_1000 * point.cost_usd, point.quality),
                xytext=(0, 9) if best else (5, -10),
                textcoords="offset points",
                ha="right" if best else "left",
                fontsize=7,
            )
        axis.set_ylabel("mean quality")
        axis.margins(x=0.06)
        figure.legend(loc="outside upper left", ncols=3, handlelength=1.8)
        return finished(figure, name, caption)


def _cost_axis(axis: Any, report: Report) -> None:
    from matplotlib.ticker import LogLocator, NullFormatter

    costs = [point.cost_usd for point in report.singles]
    logarithmic = min(costs) > 0 and max(costs) > DECADE * min(costs)
    axis.set_xlabel("USD per 1,000 queries" + (", log scale" if logarithmic else ""))
    if logarithmic:
        axis.set_xscale("log")
        decades = np.log10(max(costs) / min(costs))
        axis.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if decades < 3 else (1.0,)))
        axis.xaxis.set_minor_formatter(NullFormatter())
        axis.xaxis.set_major_formatter(lambda value, _: f"{value:g}")


def _at(report: Report, system: str, cost: Any) -> Any:
    curve = np.array(report.curves[system])
    return np.interp(cost, curve[:, 0], curve[:, 1])


def gain(report: Report, name: str) -> Chart:
    """Without the cheapest spends, whose jumps would stretch it."""
    caption = (
        f"Quality above the static mix at the same spend, from {FRAMED} % of the best single model's cost on. "
        "Where the band lies above zero, routing pays."
    )
    with canvas(*INCHES) as figure:
        axis = figure.subplots()
        cost, low, high = np.array(report.bands["gain"]).T
        above = _at(report, "policy", cost) - _at(report, "static_mix", cost)
        spend = 100 * cost / (report.best.cost_usd or 1.0)
        framed = spend >= min(FRAMED, spend.max())
        axis.axhline(0, color=LIGHT["mix"], linewidth=1.6, linestyle="--", label="static mix")
        axis.fill_between(spend[framed], low[framed], high[framed], color=LIGHT["policy"], alpha=0.18, linewidth=0)
        axis.plot(spend[framed], above[framed], color=LIGHT["policy"], label="policy")
        axis.set_xlim(0, 102)
        axis.set_xlabel("spend, % of the best single model's cost")
        axis.set_ylabel("quality above the static mix")
        axis.yaxis.set_major_formatter(lambda value, _: number(value, "+g") if abs(value) > 1e-9 else "0")
        figure.legend(loc="outside upper left", ncols=2, handlelength=1.8)
        return finished(figure, name, caption)


def calibration(report: Report, name: str) -> Chart:
    caption = "What was expected of answers against what came of them, in bins of as many answers each."
    with canvas(*INCHES) as figure:
        axis = figure.subplots()
        bins = report.reliability.bins
        values = [bound for part in bins for bound in (part.predicted, part.observed.low, part.observed.high)]
        low, high = max(min(values) - 0.03, 0.0), min(max(values) + 0.03, 1.0)
        axis.plot([low, high], [low, high], "--", color=LIGHT["soft"], linewidth=1, label="as expected")
        for part in bins:
            ends = [part.observed.low, part.observed.high]
            axis.plot([part.predicted] * 2, ends, color=LIGHT["policy"], alpha=0.5, linewidth=1.8)
        expected, observed = [part.predicted for part in bins], [part.observed.value for part in bins]
        axis.plot(expected, observed, "o-", color=LIGHT["policy"], markersize=4.5, linewidth=1.2, label="policy")
        axis.set(xlabel="expected quality", ylabel="observed quality", xlim=(low, high), ylim=(low, high))
        figure.legend(loc="outside upper left", ncols=2, handlelength=1.8)
        return finished(figure, name, caption)


def shares(report: Report, name: str) -> Chart:
    caption = "Which models take what share of the queries, for each preference of the caller."
    named = _ranked(report)[:NAMED]
    with canvas(*INCHES) as figure:
        axis = figure.subplots()
        for row, chosen in enumerate(report.chosen.values()):
            left = 0.0
            for expert, part in zip(named, PARTS, strict=False):
                left = _piece(axis, row, left, chosen.get(expert, 0.0), part)
            _piece(axis, row, left, 1.0 - left, "others")
        legend = [(shortened(expert, 34), part) for expert, part in zip(named, PARTS, strict=False)]
        legend += [("others", "others")] if len(_ranked(report)) > len(named) else []
        handles = [axis.barh(0, 0, color=LIGHT[part], label=label) for label, part in legend]
        figure.legend(handles=handles, loc="outside lower left", ncols=2, handlelength=1, fontsize=7.5)
        axis.set_yticks(range(len(report.chosen)), list(report.chosen))
        axis.set(xlim=(0, 100), ylim=(len(report.chosen) - 0.5, -0.5), xlabel="% of the queries")
        axis.grid(visible=False)
        return finished(figure, name, caption)


def _piece(axis: Any, row: int, left: float, width: float, part: str) -> float:
    """One part of a bar, with its share where it fits; returns where the next one begins."""
    if width > 0.0005:
        edge = {"linewidth": 0.8, "edgecolor": LIGHT["card"]}
        axis.barh(row, 100 * width, left=100 * left, height=0.62, color=LIGHT[part], **edge)
    if width > 0.07:
        written = {"ha": "center", "va": "center", "fontsize": 7.5, "color": ON_PART.get(part, "#161616")}
        axis.text(100 * (left + width / 2), row, f"{100 * width:.0f} %", **written)
    return left + width


def by_domain(report: Report, name: str, most: int) -> Chart:
    """For the largest domains; experts that are seldom chosen are left out."""
    caption = "Who gets what of each domain at half the best single model's cost, in per cent of its queries."
    domains = report.domains[:most]
    total: dict[str, float] = {}
    for part in domains:
        for expert, share in part.chosen.items():
            total[expert] = total.get(expert, 0.0) + share * part.queries
    experts = sorted(total, key=lambda expert: -total[expert])[:CELLS]
    plain = {**TYPE, "axes.grid": False, "axes.spines.bottom": False}
    with canvas(INCHES[0], 1.5 + 0.24 * len(domains), plain) as figure:
        axis = figure.subplots()
        for row, part in enumerate(domains):
            for column, expert in enumerate(experts):
                _cell(axis, column, row, part.chosen.get(expert, 0.0))
        axis.set(xlim=(-0.5, len(experts) - 0.5), ylim=(len(domains) - 0.5, -0.5))
        axis.set_yticks(range(len(domains)), [shortened(part.name, 34) for part in domains])
        names = [shortened(expert, 24) for expert in experts]
        axis.set_xticks(range(len(experts)), names, rotation=35, ha="left", rotation_mode="anchor")
        axis.tick_params(top=True, bottom=False, labeltop=True, labelbottom=False, length=0)
        return finished(figure, name, caption)


def _cell(axis: Any, column: int, row: int, share: float) -> None:
    from matplotlib.patches import Rectangle

    shape = Rectangle((column - 0.48, row - 0.46), 0.96, 0.92, linewidth=0)
    shape.set(facecolor=LIGHT["policy"], alpha=0.05 + 0.75 * share)
    axis.add_patch(shape)
    if share >= 0.005:
        axis.text(column, row, f"{100 * share:.0f}", ha="center", va="center", fontsize=7)


def _ranked(report: Report) -> list[str]:
    """The experts by the share they take over all preferences, the largest first."""
    total: dict[str, float] = {}
    for chosen in report.chosen.values():
        for expert, share in chosen.items():
            total[expert] = total.get(expert, 0.0) + share
    return sorted(total, key=lambda expert: -total[expert])
