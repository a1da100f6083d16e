"""Colours, type and the two forms of a chart: SVG that follows the page's light or dark theme, and PNG.

Charts are drawn in the light colours; in the SVG each of them is replaced by the CSS variable of its name.
"""

import io
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from html import escape
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: name -> (light, dark). The three lines are of Okabe and Ito's palette, the parts of a whole of Tol's bright one:
#: both are told apart with any kind of colour vision.
COLOURS = {
    "paper": ("#fdfdfc", "#12161b"),
    "card": ("#ffffff", "#1a2027"),
    "ink": ("#1a1f26", "#e8ebef"),
    "soft": ("#5d6875", "#9ba7b4"),
    "grid": ("#e3e7ec", "#2b333c"),
    "single": ("#8b95a1", "#7a8591"),
    "policy": ("#0072b2", "#4fb0e8"),
    "mix": ("#d55e00", "#f5945a"),
    "oracle": ("#009e73", "#35c79c"),
    "part1": ("#4477aa", "#6699cc"),
    "part2": ("#ee6677", "#ee6677"),
    "part3": ("#228833", "#44aa55"),
    "part4": ("#ccbb44", "#ccbb44"),
    "part5": ("#66ccee", "#66ccee"),
    "part6": ("#aa3377", "#cc6699"),
    "others": ("#bbbbbb", "#77808a"),
}
LIGHT = {name: light for name, (light, _) in COLOURS.items()}
PARTS = ("part1", "part2", "part3", "part4", "part5", "part6")
ON_PART = {"part1": "#fefefe", "part3": "#fefefe", "part6": "#fefefe"}  # what is written on dark parts
DPI = 200
TYPE: dict[str, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "pointsman",
    "text.parse_math": False,
    "font.family": "DejaVu Sans",
    "font.size": 8.5,
    "axes.labelsize": 8.5,
    "axes.labelcolor": LIGHT["soft"],
    "axes.edgecolor": LIGHT["grid"],
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": LIGHT["grid"],
    "grid.linewidth": 0.8,
    "text.color": LIGHT["ink"],
    "xtick.color": LIGHT["grid"],
    "ytick.color": LIGHT["grid"],
    "xtick.labelcolor": LIGHT["soft"],
    "ytick.labelcolor": LIGHT["soft"],
    "ytick.major.size": 0,
    "xtick.minor.size": 0,
    "lines.linewidth": 1.8,
    "lines.solid_capstyle": "round",
    "legend.frameon": False,
    "legend.fontsize": 8,
}


@dataclass(frozen=True)
class Chart:
    """`name` is a file's name without its ending; `caption` says what one sees."""

    name: str
    caption: str
    svg: str
    figure: "Figure"

    def png(self) -> bytes:
        picture = io.BytesIO()
        _save(self.figure, picture, format="png", dpi=DPI, facecolor="white", metadata={"Software": None})
        return picture.getvalue()


@contextmanager
def canvas(width: float, height: float, style: Mapping[str, Any] = TYPE) -> Iterator["Figure"]:
    """A figure of so many inches, to be drawn and `finished` inside the block."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(dict(style)):
        yield Figure(figsize=(width, height), layout="constrained")


def finished(figure: "Figure", name: str, caption: str) -> Chart:
    drawn = io.StringIO()
    _save(figure, drawn, format="svg", transparent=True, metadata={"Date": None})
    return Chart(name=name, caption=caption, svg=themed(drawn.getvalue(), name, caption), figure=figure)


def _save(figure: "Figure", to: IO[Any], **options: Any) -> None:
    import matplotlib

    with warnings.catch_warnings(), matplotlib.rc_context(TYPE):
        warnings.filterwarnings("ignore", message="Glyph .* missing", category=UserWarning)
        figure.savefig(to, **options)


def themed(svg: str, name: str, caption: str) -> str:
    """The drawing alone, for a place in a page: its colours are the page's, and its ids its own."""
    body = svg[svg.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    used = set(re.findall(r"url\(#([^)]+)\)", body)) | set(re.findall(r'href="#([^"]+)"', body))
    body = re.sub(r' id="([^"]+)"', lambda found: f' id="{name}-{found[1]}"' if found[1] in used else "", body)
    body = re.sub(r"url\(#", f"url(#{name}-", body)
    body = re.sub(r'href="#', f'href="#{name}-', body)
    for colour, (light, _) in COLOURS.items():
        body = body.replace(light, f"var(--{colour})")
    body = re.sub(r"'DejaVu Sans'[^;\"]*", "var(--sans)", body)
    box = re.search(r'viewBox="[^"]+"', body)
    assert box is not None
    start = f'<svg class="chart" role="img" aria-label="{escape(caption)}" {box.group()}>'
    return start + body[body.index(">") + 1 :]


def variables() -> str:
    """The colours as CSS, light and dark."""
    light, dark = ("".join(f"--{name}:{pair[k]};" for name, pair in COLOURS.items()) for k in (0, 1))
    return f":root{{{light}}}@media (prefers-color-scheme:dark){{:root{{{dark}}}}}"


def shown(name: str) -> str:
    """A name that others chose, without what cannot be printed."""
    return "".join(letter if letter.isprintable() else "�" for letter in " ".join(name.split())) or "(no name)"


def shortened(name: str, letters: int = 28) -> str:
    """For a chart: the beginning and the end of what is too long."""
    name = shown(name)
    if len(name) <= letters:
        return name
    return f"{name[: letters // 2]}…{name[-(letters - letters // 2 - 1) :]}"
