"""The whole page: a verdict, an overview where there are several tables, a section each, and how to read it."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from router.errors import DataError
from router.files import write_whole
from training.page.elements import Html, drawing, folded, grid, interval, joined, number, span, table, tag
from training.page.forest import Panel, forest
from training.page.report_section import report_section
from training.page.study_section import study_section
from training.page.theme import Chart, variables
from training.page.verdict import MEANING, SAID, outcome, verdict
from training.report import Report
from training.studies.suite import Studies

SUFFIXES = (".html", ".htm")


@dataclass(frozen=True)
class Section:
    report: Report
    studies: Studies


@dataclass(frozen=True)
class Document:
    """`policy` is its kind; `facts` go under the title, one line each; `notes` to the end."""

    policy: str
    facts: Sequence[str]
    sections: Sequence[Section]
    notes: Sequence[str] = ()


def check_page(path: Path) -> None:
    """Before the work. Raises `DataError` where a page cannot be written, `ModuleNotFoundError` where not drawn."""
    import matplotlib  # noqa: F401

    if path.suffix.lower() not in SUFFIXES:
        raise DataError(f"--report {path}: expected a name that ends in {' or '.join(SUFFIXES)}")
    if not path.parent.is_dir():
        raise DataError(f"cannot write {path}: there is no folder {path.parent}")


def write_page(document: Document, path: Path) -> Path:
    """Writes the page, and its charts into a folder beside it, which is returned. Raises `DataError`."""
    return written(*page(document), path)


def written(html: str, charts: Sequence[Chart], path: Path) -> Path:
    """Writes a page, and its charts into a folder beside it, which is returned. Raises `DataError`."""
    folder = path.with_name(f"{path.stem}_files")
    try:
        folder.mkdir(exist_ok=True)
        for chart in charts:
            write_whole(folder / f"{chart.name}.png", chart.png())
        write_whole(path, html.encode("utf-8", "replace"))
    except OSError as error:
        raise DataError(f"cannot write {path}: {error.strerror}") from error
    return folder


def page(document: Document) -> tuple[str, list[Chart]]:
    """The HTML, which asks for nothing from outside, and its charts."""
    reports = [section.report for section in document.sections]
    names = _names(reports)
    parts, charts = [_head(document, reports, names)], []
    if len(reports) > 1:
        overview, chart = _overview(reports)
        parts.append(overview)
        charts.append(chart)
    for section, name in zip(document.sections, names, strict=True):
        found, more = _section(section, name)
        parts.append(found)
        charts += more
    parts.append(_explained(document))
    return framed(f"{document.policy}: report", parts), charts


def framed(name: str, parts: Sequence[Html]) -> str:
    """The whole HTML of a page that is called so."""
    style = Path(__file__).with_name("style.css").read_text(encoding="utf-8")
    title = tag("title", name)
    start = '<!doctype html><html lang="en"><head><meta charset="utf-8">'
    start += '<meta name="viewport" content="width=device-width,initial-scale=1">'
    start += '<meta name="color-scheme" content="light dark">'
    body = tag("body", tag("main", joined(*parts)))
    return f"{start}{title}<style>{variables()}{style}</style></head>{body}</html>\n"


def _names(reports: Sequence[Report]) -> list[str]:
    """For files and places in the page: plain, and each its own."""
    slugs = [re.sub(r"[^a-z0-9]+", "-", report.dataset.lower()).strip("-")[:40] for report in reports]
    return [f"{number}-{slug}" if slug else str(number) for number, slug in enumerate(slugs, start=1)]


def _head(document: Document, reports: Sequence[Report], names: Sequence[str]) -> Html:
    won = all(outcome(report) == "beats" for report in reports)
    facts = joined(*(tag("li", fact) for fact in document.facts))
    parts = [
        tag("p", "Pointsman · report on a policy", "kicker"),
        tag("h1", verdict(document.policy, reports), "beats" if won else "open"),
        tag("ul", facts, "facts"),
    ]
    if len(reports) > 1:
        links = [
            Html(f'<a href="#{name}">{tag("span", report.dataset)}</a>')
            for name, report in zip(names, reports, strict=True)
        ]
        parts.append(tag("nav", joined(*links)))
    return tag("header", joined(*parts))


def _overview(reports: Sequence[Report]) -> tuple[Html, Chart]:
    caption = "The way from the static mix to the oracle, and the area gained. Filled points differ from zero."
    panels = [
        Panel("gap closed", [report.share for report in reports], percent=True),
        Panel("area above the static mix", [report.gain for report in reports]),
    ]
    chart = forest("overview", caption, [report.dataset for report in reports], panels)
    rows = []
    for report in reports:
        size = [f"{report.queries:,}", str(len(report.experts))]
        area = [f"{report.area[name].value:.3f}" for name in ("static_mix", "policy", "oracle")]
        said = tag("b", "beats") if outcome(report) == "beats" else outcome(report)
        rows.append([report.dataset, *size, *area, interval(report.gain), said])
    headings = ["data set", "queries", "models", "static mix", "policy", "oracle", "gain", "verdict"]
    return tag("section", joined(tag("h2", "Overview"), grid(drawing(chart)), table(headings, rows))), chart


def _section(section: Section, name: str) -> tuple[Html, list[Chart]]:
    report, how = section.report, outcome(section.report)
    found, charts = report_section(report, name)
    studies, more = study_section(section.studies, name)
    lead = (
        f"{report.queries:,} held-out queries, {len(report.experts)} models. The policy {SAID[how]}: "
        f"{number(report.gain.value, '+.3f')} ({span(report.gain, '+.3f')}) of mean quality over all spends, "
        f"p = {report.p_value:.3f}. {MEANING[how]}."
    )
    inner = joined(tag("h2", report.dataset), tag("p", lead, "lead"), found, studies)
    return Html(f'<section id="{name}">{inner}</section>'), [*charts, *more]


READING = (
    "Static mix: the best that any mix of single models reaches without looking at the query. What does not beat "
    "it is not worth its complexity.",
    "Oracle: knows every outcome. No policy gets there; where answers are partly luck, none could.",
    "Area: mean quality over all spends from the cheapest to the best single model's cost.",
    "Half cost: half of what the best single model costs, on average over all queries.",
    "Intervals hold 95 % of 1,000 bootstrap resamples of the queries, shared by all systems, so that differences "
    "are paired. p is one-sided: the share of resamples in which nothing is gained.",
)


def _explained(document: Document) -> Html:
    parts = [tag("h2", "How to read it"), tag("ul", joined(*(tag("li", line) for line in READING)))]
    if document.notes:
        notes = tag("ul", joined(*(tag("li", note) for note in document.notes)))
        parts.append(folded(f"Notes on the data ({len(document.notes)})", notes))
    return tag("section", joined(*parts), "small")
