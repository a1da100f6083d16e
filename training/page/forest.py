"""Figures with their intervals, one under the other: the chart of everything that comes in parts."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from training.interval import Interval
from training.page.elements import number
from training.page.theme import LIGHT, Chart, canvas, finished, shortened

ROW_INCHES = 0.24
WIDTH_INCHES = 5.6


@dataclass(frozen=True)
class Panel:
    """A column of figures, one per row. `reference` is the value to be above; a figure counts as different from it,
    and is drawn filled, where its interval leaves the reference out.
    """

    title: str
    figures: Sequence[Interval | None]
    reference: float | None = 0.0
    percent: bool = False


def forest(name: str, caption: str, labels: Sequence[str], panels: Sequence[Panel]) -> Chart:
    """`labels` name the rows, from above. All panels have as many figures as there are labels."""
    with canvas(WIDTH_INCHES, 0.75 + ROW_INCHES * len(labels)) as figure:
        axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
        for axis, panel in zip(axes, panels, strict=True):
            _draw(axis, panel)
        axes[0].set_yticks(range(len(labels)), [shortened(label, 38) for label in labels])
        axes[0].set_ylim(len(labels) - 0.4, -0.6)
        return finished(figure, name, caption)


def _draw(axis: Any, panel: Panel) -> None:
    scale = 100.0 if panel.percent else 1.0
    axis.grid(axis="y", visible=False)
    if panel.reference is not None:
        axis.axvline(scale * panel.reference, color=LIGHT["soft"], linewidth=1, zorder=1)
    for row, found in enumerate(panel.figures):
        if found is None:
            continue
        value, low, high = (scale * bound for bound in (found.value, found.low, found.high))
        colour = _colour(found, panel.reference)
        axis.plot([low, high], [row, row], color=colour, linewidth=2, alpha=0.55, zorder=2)
        axis.plot(
            value, row, "o", markersize=5, markeredgecolor=colour, zorder=3, markeredgewidth=1.4,
            markerfacecolor=colour if _differs(found, panel.reference) else LIGHT["card"],
        )  # fmt: skip
    axis.set_xlabel(panel.title)
    axis.locator_params(axis="x", nbins=5)
    if panel.percent:
        axis.xaxis.set_major_formatter(lambda value, _: f"{number(value, 'g')} %")


def _differs(found: Interval, reference: float | None) -> bool:
    return reference is None or not found.low <= reference <= found.high


def _colour(found: Interval, reference: float | None) -> str:
    return LIGHT["mix" if reference is not None and found.high < reference else "policy"]
