"""The page: one file that asks for nothing, holds what it should, and is safe from the names in it."""

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from policies.static import Static
from router.errors import DataError
from router.types import Floats, Outcomes, Queries
from training.evaluate import evaluate
from training.interval import Interval
from training.page.document import Document, Section, check_page, page, write_page
from training.page.elements import Html, interval, table, text
from training.page.forest import Panel, forest
from training.page.report_charts import by_domain, cost_quality, gain, shares
from training.page.theme import COLOURS, shortened, shown, variables
from training.page.verdict import verdict
from training.report import Report
from training.studies.ablation import Ablated, AblationStudy
from training.studies.cost import ServingCost, TrainingCost
from training.studies.domain import DomainStudy, UnseenDomain
from training.studies.expert import AbsentExpert, ExpertStudy
from training.studies.robustness import Flips
from training.studies.suite import Studies

SCRIPT = "<script>alert('x')</script>"
AROUND = Interval(0.01, -0.02, 0.03)
ABOVE = Interval(0.02, 0.01, 0.03)


class Told(Static):
    """Expects what it was told."""

    def __init__(self, expected: Floats) -> None:
        self.expected = expected

    def _predict(self, queries: Queries) -> tuple[Floats, Floats]:
        return self.expected, np.full(self.expected.shape, 0.1)


@pytest.fixture(autouse=True, scope="module")
def few_resamples() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for module in ("interval", "resamples", "reliability"):
            patch.setattr(f"training.{module}.RESAMPLES", 60)
        yield


@pytest.fixture(scope="module")
def report() -> Report:
    return reported()


def reported(experts: int = 3, dataset: str = "world", name: Callable[[int], str] = "model {}".format) -> Report:
    """Experts that cost twice as much each, with two domains."""
    rng = np.random.default_rng(experts)
    rows = 90
    chance = np.clip(rng.uniform(0.2, 0.9, size=(rows, experts)) + np.linspace(0, 0.2, experts), 0, 1)
    outcomes = Outcomes(
        queries=Queries(
            embeddings=np.zeros((rows, 0), np.float32),
            input_tokens=np.full(rows, 50.0),
            domains=tuple(f"domain {SCRIPT} {row % 2}" for row in range(rows)),
        ),
        experts=tuple(name(k) for k in range(experts)),
        quality=(rng.random(chance.shape) < chance).astype(float),
        cost_usd=np.tile(0.0001 * 1.5 ** np.arange(experts), (rows, 1)),
        output_tokens=np.full(chance.shape, 100.0),
    )
    return evaluate(Told(chance).fit(outcomes), outcomes, rng, dataset=dataset)


def studied() -> Studies:
    return Studies(
        domain=DomainStudy(
            (UnseenDomain(SCRIPT, 12, SCRIPT, 0.6, 0.5, ABOVE, AROUND),), ABOVE, AROUND, {"x": "few"}
        ),
        expert=ExpertStudy(ABOVE, AROUND, (AbsentExpert(SCRIPT, ABOVE, AROUND, AROUND),)),
        robustness=(Flips("lower case", 1.0, ABOVE, AROUND, AROUND),),
        ablation=AblationStudy(ABOVE, (Ablated(f"without {SCRIPT}", ABOVE, AROUND, 0.2),)),
        training=TrainingCost(100, 1.5, None),
        serving=ServingCost(0.1, 0.3, 2.0),
        missing={"cost": f"because {SCRIPT}"},
    )


class Seen(HTMLParser):
    """The tags that are open at the end, and every attribute that could fetch something."""

    VOID = ("meta", "br", "hr", "img", "link", "input")

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.fetched: list[str] = []
        self.ids: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        if tag not in self.VOID:
            self.open.append(tag)
        for name, value in attrs:
            if name in ("src", "href", "xlink:href", "action", "data", "srcset"):
                self.fetched.append(value or "")
            if name == "id":
                self.ids.append(value or "")
            assert not name.startswith("on"), f"{tag} has {name}"

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def html() -> str:
    """Two tables with every study, and hostile names wherever others choose one."""
    hostile = reported(3, dataset=f"{SCRIPT} & co", name=lambda k: f"{SCRIPT} $\\frac{{{k}}}$ \x00\u202e{k}")
    other = Section(replace(reported(), domains=()), Studies())
    document = Document(SCRIPT, [SCRIPT], [Section(hostile, studied()), other], [SCRIPT])
    return page(document)[0]


def test_the_page_is_one_file_that_fetches_nothing(html: str) -> None:
    seen = Seen(html)
    assert seen.open == []
    assert all(target.startswith("#") for target in seen.fetched)
    assert not re.search(r"@import|url\((?!#)", html)
    assert not {"script", "link", "img", "iframe", "object"} & seen.tags


def test_names_are_harmless(html: str) -> None:
    assert "<script" not in html.lower()
    assert "&lt;script&gt;" in html
    assert "\x00" not in html
    assert "\u202e" not in html


def test_places_in_the_page_are_named_once(html: str) -> None:
    ids = Seen(html).ids
    assert len(ids) == len(set(ids))
    assert {"1-script-alert-x-script-co", "2-world"} <= set(ids)


def test_the_page_shows_every_part(html: str) -> None:
    for shown_part in (
        "Published metrics", "AIQ", "APGR", "CPT(80)", "QNC", "arena score", "Brier", "ECE", "Domains", "Overview",
        "A domain it never saw", "A model it never saw", "Worded otherwise", "What each part is worth",
        "What the policy itself costs", "not told by this system", "Not studied: because", "How to read it",
    ):  # fmt: skip
        assert shown_part in html, shown_part


def test_charts_take_their_colours_from_the_page(html: str) -> None:
    drawings = re.findall(r"<svg.*?</svg>", html, flags=re.DOTALL)
    assert len(drawings) > 12
    assert all("var(--soft)" in drawing for drawing in drawings)
    assert sum("var(--policy)" in drawing for drawing in drawings) > 10
    for light, _ in COLOURS.values():
        assert all(light not in drawing for drawing in drawings)
    assert "prefers-color-scheme:dark" in variables()


@pytest.mark.parametrize("experts", [2, 24])
def test_few_and_many_experts_are_drawn(experts: int) -> None:
    report = reported(experts, name=lambda k: f"a-provider/with-a-rather-long-name-of-a-model-{k:02}-instruct-v0.1")
    for chart in (cost_quality(report, "a"), gain(report, "b"), shares(report, "c"), by_domain(report, "d", 24)):
        assert "…" in chart.svg or chart.name == "b"


def test_what_is_not_defined_is_said_and_what_is_not_there_left_out(report: Report) -> None:
    bare = replace(report, metrics={"QNC": report.metrics["QNC"]}, domains=(), tail=())
    found = page(Document("static", [], [Section(bare, Studies())]))[0]
    assert "Not defined here, the cheapest model being the best: AIQ, APGR" in found
    assert "Domains" not in found
    assert "Head and tail" not in found


def test_page_and_charts_are_written_beside_each_other(
    report: Report, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.page.theme.DPI", 40)
    report = replace(report, dataset="a/b", domains=())
    folder = write_page(Document("static", [], [Section(report, Studies())]), tmp_path / "out.html")
    assert folder == tmp_path / "out_files"
    assert {path.name for path in folder.iterdir()} == {
        f"1-a-b-{name}.png" for name in ("cost-quality", "gain", "shares", "calibration")
    }
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in folder.iterdir())
    assert (tmp_path / "out.html").read_text().startswith("<!doctype html>")


def test_where_no_page_can_be_written_is_said_before_the_work(tmp_path: Path) -> None:
    check_page(tmp_path / "out.html")
    with pytest.raises(DataError, match=r"out\.pdf: expected a name that ends in \.html"):
        check_page(tmp_path / "out.pdf")
    with pytest.raises(DataError, match="there is no folder"):
        check_page(tmp_path / "nowhere" / "out.html")


def test_the_verdict_is_one_sentence(report: Report) -> None:
    won, lost, unsure = (
        replace(report, dataset=name, gain=found)
        for name, found in (("a", ABOVE), ("b", Interval(-0.2, -0.3, -0.1)), ("c", AROUND))
    )
    assert verdict("best", [won]) == "The policy best beats the static mix on a."
    assert verdict("best", [unsure]) == "The policy best does not provably beat the static mix on c."
    assert verdict("best", [lost]) == "The policy best is below the static mix on b."
    assert verdict("best", [won, won]) == "The policy best beats the static mix on all 2 data sets."
    assert verdict("best", [won, lost, unsure]) == (
        "The policy best beats the static mix on 1 of 3 data sets; not provably on c; it is below it on b."
    )


def test_a_forest_marks_what_differs_from_its_reference() -> None:
    figures = [ABOVE, AROUND, None, Interval(-0.2, -0.3, -0.1)]
    chart = forest("f", "caption", ["a", "b", "c", "d"], [Panel("gain", figures)])
    assert chart.svg.count("var(--mix)") > 0
    assert 'aria-label="caption"' in chart.svg


def test_text_is_escaped_unless_it_is_ours() -> None:
    assert text("<b>&") == "&lt;b&gt;&amp;"
    assert text(Html("<b>")) == "<b>"
    assert "<td>&lt;i&gt;</td>" in table(["a"], [["<i>"]])
    assert interval(Interval(0.1, -0.2, 0.3)) == "+0.100 <small>−0.200 to +0.300</small>"


def test_long_and_strange_names_are_shortened_for_charts() -> None:
    assert shortened("short") == "short"
    assert shortened("x" * 20 + "y" * 20, 20) == "x" * 10 + "…" + "y" * 9
    assert shown("a\nb\x07") == "a b�"
    assert shown("") == "(no name)"
