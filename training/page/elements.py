"""The pieces of a page. What is not marked as HTML of ours is text of others and is escaped, always."""

from collections.abc import Sequence
from html import escape

from training.interval import Interval
from training.page.theme import Chart


class Html(str):
    """A string that is HTML already."""


def text(content: str) -> Html:
    if isinstance(content, Html):
        return content
    return Html(escape("".join(letter if letter.isprintable() else " " for letter in content)))


def joined(*parts: str) -> Html:
    return Html("".join(text(part) for part in parts))


def tag(name: str, content: str, classes: str = "") -> Html:
    return Html(f"<{name}{f' class={chr(34)}{classes}{chr(34)}' if classes else ''}>{text(content)}</{name}>")


def table(headings: Sequence[str], rows: Sequence[Sequence[str]], caption: str = "") -> Html:
    """The first column holds names; all others are numbers, aligned to the right."""
    head = joined(*(tag("th", heading) for heading in headings))
    body = joined(*(tag("tr", joined(*(tag("td", cell) for cell in row))) for row in rows))
    above = tag("caption", caption) if caption else ""
    inner = joined(Html(above), tag("thead", tag("tr", head)), tag("tbody", body))
    return tag("div", tag("table", inner), "wide")


def drawing(chart: Chart) -> Html:
    return tag("figure", joined(Html(chart.svg), tag("figcaption", chart.caption)))


def grid(*parts: Html | None) -> Html:
    """Side by side where there is room."""
    return tag("div", joined(*(part for part in parts if part)), "grid")


def card(title: str, value: str, note: str) -> Html:
    return tag("div", joined(tag("h4", title), tag("p", value, "value"), tag("p", note, "note")), "card")


def described(name: str, description: str) -> Html:
    """For a table's first column."""
    return joined(name, tag("small", description, "under"))


def folded(summary: str, content: Html) -> Html:
    return tag("details", joined(tag("summary", summary), content))


def number(value: float, form: str) -> str:
    """As a text: with a minus of its own, and a space before per cent."""
    return f"{value:{form}}".replace("-", "−").replace("%", " %")


def span(found: Interval, form: str) -> str:
    """From the lower to the upper bound."""
    return f"{number(found.low, form)} to {number(found.high, form)}"


def interval(found: Interval, form: str = "+.3f") -> Html:
    """The value, and its bounds in small type."""
    return joined(number(found.value, form) + " ", tag("small", span(found, form)))


def points(found: Interval) -> Interval:
    """A quality in points of a hundred."""
    return Interval(100 * found.value, 100 * found.low, 100 * found.high)


def usd(cost: float) -> str:
    """Per 1,000 queries."""
    return f"{1_000 * cost:.3g}"
