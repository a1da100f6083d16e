"""One evaluation as a part of the page."""

from collections.abc import Sequence

from training.metrics import PUBLISHED, Metric
from training.page.elements import (
    Html,
    card,
    described,
    drawing,
    folded,
    grid,
    interval,
    joined,
    number,
    points,
    span,
    table,
    tag,
    usd,
)
from training.page.forest import Panel, forest
from training.page.report_charts import by_domain, calibration, cost_quality, gain, shares
from training.page.theme import Chart
from training.report import Report
from training.slices import Slice

DRAWN = 24  # domains in a chart, the largest; a table has all
QUALITIES = ("policy", "static mix", "best single", "oracle")
ABOVE = "Quality above the static mix at half the best single model's cost. Filled points differ from zero."
METRICS = {
    "AIQ": "RouterBench: area under the non-decreasing hull, cheapest to dearest model (Hu et al., 2024)",
    "APGR": "RouteLLM: gap between cheapest and best single model recovered, over all shares (Ong et al., 2024)",
    "CPT(50)": "RouteLLM: share of calls to the best single model that recovers half of the gap",
    "CPT(80)": "RouteLLM: share of calls to the best single model that recovers 80 % of the gap",
    "deferral area": "UniRoute: area under quality over relative cost (Jitkrittum et al., 2025)",
    "QNC": "UniRoute: share of the best single model's cost at which its quality is reached",
    "arena score": "RouterArena: 1.1 A C / (0.1 A + C) at half the best single model's cost (Lu et al., 2025)",
    "Brier score": "mean squared error of the expected quality (Brier, 1950)",
    "ECE, equal width": "expected calibration error in 15 bins (Naeini et al., 2015; Guo et al., 2017)",
    "ECE, equal mass": "the same in bins of as many answers each",
}


def report_section(report: Report, name: str) -> tuple[Html, list[Chart]]:
    """The HTML, and the charts in it, whose names begin with `name`."""
    charts = [
        cost_quality(report, f"{name}-cost-quality"),
        gain(report, f"{name}-gain"),
        shares(report, f"{name}-shares"),
        calibration(report, f"{name}-calibration"),
    ]
    parts = [_cards(report), grid(*map(drawing, charts[:2])), _metrics(report), grid(*map(drawing, charts[2:]))]
    if report.domains:
        found, more = _domains(report, name)
        parts.append(found)
        charts += more
    if report.tail:
        found, chart = _tail(report, name)
        parts.append(found)
        charts.append(chart)
    parts.append(_models(report))
    return joined(*parts), charts


def _cards(report: Report) -> Html:
    half, share, error = report.half_cost, report.share, report.reliability.ece
    above = points(half["gain"])
    gained = f"{number(above.value, '+.1f')} points ({span(above, '+.1f')}) above the static mix"
    cards = [
        card("gap closed", number(share.value, ".1%"), f"{span(share, '.1%')} of the way from mix to oracle"),
        card("quality at half cost", number(half["policy"].value, ".1%"), gained),
        card("calibration error", number(error.value, ".3f"), f"{span(error, '.3f')} (ECE)"),
    ]
    if neutral := report.metrics.get("QNC"):
        bought = f"of its cost buys {report.best.expert}'s quality"
        note = bought if neutral.policy.value < 1 else f"{report.best.expert} is not matched for less"
        cards.insert(2, card("quality-neutral cost", number(neutral.policy.value, ".0%"), note))
    return tag("div", joined(*cards), "cards")


def _metrics(report: Report) -> Html:
    rows = [_metric(name, metric) for name, metric in report.metrics.items()]
    for name, error in (
        ("Brier score", report.reliability.brier),
        ("ECE, equal width", report.reliability.ece),
        ("ECE, equal mass", report.reliability.ece_equal_mass),
    ):
        rows.append([described(f"{name} ↓", METRICS[name]), interval(error, ".3f"), "", "", ""])
    undefined = [name for name in PUBLISHED if name not in report.metrics]
    note = f"Not defined here, the cheapest model being the best: {', '.join(undefined)}." if undefined else ""
    found = table(["metric", "policy", "static mix", "better by", "p"], rows)
    return joined(tag("h3", "Published metrics"), found, tag("p", note, "note"))


def _metric(name: str, metric: Metric) -> list[str]:
    arrow = "↑" if metric.better == "higher" else "↓"
    policy, mix, p = interval(metric.policy, ".3f"), number(metric.static_mix, ".3f"), f"{metric.p:.3f}"
    described_name = described(f"{name} {arrow}", METRICS[name])
    return [described_name, policy, mix, interval(metric.gain), tag("b", p) if metric.p < 0.05 else p]


def _domains(report: Report, name: str) -> tuple[Html, list[Chart]]:
    drawn = report.domains[:DRAWN]
    caption = f"{ABOVE} What is saved in one domain may be spent in another. The largest first."
    charts = [_gains(f"{name}-domains", caption, drawn), by_domain(report, f"{name}-experts", DRAWN)]
    rows = _slices(report.domains, "domain")
    found = joined(tag("h3", "Domains"), grid(*map(drawing, charts)), folded("All domains as a table", rows))
    return found, charts


def _tail(report: Report, name: str) -> tuple[Html, Chart]:
    chart = _gains(f"{name}-tail", f"{ABOVE} By the size of the queries' cluster.", report.tail)
    said = (
        "Common and rare kinds of queries: clusters by size, each group about a third of the queries (after RIDE, "
        "Wang et al., 2021)."
    )
    rows = _slices(report.tail, "group")
    return joined(tag("h3", "Head and tail"), tag("p", said, "note"), rows, grid(drawing(chart))), chart


def _gains(name: str, caption: str, slices: Sequence[Slice]) -> Chart:
    panel = Panel("points above the static mix", [part.gain for part in slices], percent=True)
    return forest(name, caption, [f"{part.name} ({part.queries})" for part in slices], [panel])


def _slices(slices: Sequence[Slice], kind: str) -> Html:
    headings = [kind, "queries", *QUALITIES, "gain over mix", "policy's cost", "mix's cost"]
    rows = []
    for part in slices:
        reached = (part.policy, part.static_mix, part.best, part.oracle)
        quality = [f"{spot.quality:.3f}" for spot in reached]
        costs = [usd(part.policy.cost_usd), usd(part.static_mix.cost_usd)]
        rows.append([part.name, f"{part.queries:,}", *quality, interval(part.gain), *costs])
    return table(headings, rows, "At half the best single model's cost over all queries. Costs in USD per 1,000.")


def _models(report: Report) -> Html:
    sent = report.chosen["balanced"]
    rows = [
        [point.expert, usd(point.cost_usd), f"{point.quality:.3f}", f"{sent.get(point.expert, 0.0):.1%}"]
        for point in report.singles
    ]
    found = table(["model", "USD per 1,000", "quality", "share at half cost"], rows)
    left = table(["left out", "why"], [[name, why] for name, why in report.left_out.items()])
    return folded(f"All {len(report.singles)} models", joined(found, left if report.left_out else Html("")))
