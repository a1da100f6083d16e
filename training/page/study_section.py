"""Studies of one policy on one table as a part of the page."""

from training.interval import Interval
from training.page.elements import (
    Html,
    card,
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
)
from training.page.forest import Panel, forest
from training.page.theme import Chart
from training.studies.ablation import AblationStudy
from training.studies.cost import ServingCost, TrainingCost
from training.studies.domain import DomainStudy
from training.studies.expert import ExpertStudy
from training.studies.robustness import Flips
from training.studies.suite import Studies

TITLES = {
    "domain": "A domain it never saw",
    "expert": "A model it never saw",
    "robustness": "Worded otherwise",
    "ablation": "What each part is worth",
    "cost": "What the policy itself costs",
}


def study_section(studies: Studies, name: str) -> tuple[Html, list[Chart]]:
    """The HTML, and the charts in it, whose names begin with `name`."""
    parts: list[Html] = []
    charts: list[Chart] = []
    after: list[Html] = []
    for made in (
        _domain(studies.domain, f"{name}-unseen-domains") if studies.domain else None,
        _expert(studies.expert, f"{name}-unseen-experts") if studies.expert else None,
        _robustness(studies.robustness, f"{name}-flips") if studies.robustness else None,
        _ablation(studies.ablation, f"{name}-ablation") if studies.ablation else None,
    ):
        if made is not None:
            parts.append(made[0])
            charts.append(made[1])
    if studies.serving:
        after.append(_cost(studies.training, studies.serving))
    for study, why in studies.missing.items():
        after.append(joined(tag("h3", TITLES[study]), tag("p", f"Not studied: {why}.", "note")))
    return joined(grid(*parts), *after), charts


def _domain(study: DomainStudy, name: str) -> tuple[Html, Chart]:
    labels = [*(f"{unseen.domain} ({unseen.queries})" for unseen in study.domains), "all of them"]
    best = [*(unseen.above_best for unseen in study.domains), study.above_best]
    mix = [*(unseen.above_mix for unseen in study.domains), study.above_mix]
    caption = "Each domain left out of training in turn, and judged on it alone. Filled points differ from zero."
    panels = [Panel("points above best single", best, percent=True), Panel("area above static mix", mix)]
    chart = forest(name, caption, labels, panels)
    rows = []
    for part in study.domains:
        quality = [f"{part.policy:.3f}", f"{part.best_quality:.3f}", interval(part.above_best), part.best]
        rows.append([part.domain, f"{part.queries:,}", *quality])
    above = points(study.above_best)
    said = (
        f"With preference best, over all unseen domains: {number(above.value, '+.1f')} points "
        f"({span(above, '+.1f')}) against the best single model of the training data."
    )
    if study.skipped:
        said += f" {len(study.skipped)} domains stayed in: too small, or too many."
    headings = ["unseen domain", "queries", "policy", "best single", "difference", "best of the training data"]
    return _part("domain", said, drawing(chart), table(headings, rows)), chart


def _expert(study: ExpertStudy, name: str) -> tuple[Html, Chart]:
    panels = [Panel("gain of the others", [study.gain, *(absent.gain for absent in study.experts)])]
    if any(absent.onboarded for absent in study.experts):
        panels.append(Panel("with it onboarded", [study.gain, *(absent.onboarded for absent in study.experts)]))
    labels = ["none left out", *(absent.expert for absent in study.experts)]
    caption = "Area above the static mix of those that remain, each model left out in turn."
    chart = forest(name, caption, labels, panels)
    said = "Trained without one of its models, the policy chooses among the others: the gain over their static mix."
    rows = [[absent.expert, interval(absent.gain), interval(absent.share)] for absent in study.experts]
    return _part("expert", said, drawing(chart), table(["left out", "gain", "share of the gap"], rows)), chart


def _robustness(found: tuple[Flips, ...], name: str) -> tuple[Html, Chart]:
    caption = "The share of queries whose model is another once reworded, and what that does to quality."
    flipped = Panel("flipped", [flip.flipped for flip in found], reference=None, percent=True)
    quality = Panel("points of quality", [flip.quality for flip in found], percent=True)
    chart = forest(name, caption, [flip.rule for flip in found], [flipped, quality])
    said = (
        "At half the best single model's cost. A flip is no fault where two models are as good: what it does to "
        "quality is what counts. Recorded outcomes are those of the prompt as it was."
    )
    rows = []
    for flip in found:
        cost = Interval(*(1_000 * bound for bound in (flip.cost_usd.value, flip.cost_usd.low, flip.cost_usd.high)))
        changes = [interval(flip.flipped, ".1%"), interval(flip.quality), interval(cost)]
        rows.append([flip.rule, number(flip.changed, ".0%"), *changes])
    headings = ["rule", "prompts changed", "flipped", "quality", "USD per 1,000"]
    return _part("robustness", said, drawing(chart), table(headings, rows)), chart


def _ablation(study: AblationStudy, name: str) -> tuple[Html, Chart]:
    variants = study.variants
    chart = forest(
        name,
        "Area that is lost with the part, or by the setting. Filled points differ from zero.",
        [variant.variant.partition(" (")[0] for variant in variants],
        [Panel("area lost", [variant.lost for variant in variants])],
    )
    rows = [["(the whole policy)", interval(study.gain), "", ""]]
    rows += [[part.variant, interval(part.gain), interval(part.lost), f"{part.p:.3f}"] for part in variants]
    headings = ["variant", "gain over static mix", "lost", "p"]
    said = "The policy trained anew without each part, on the same queries. Parts that lose nothing could go."
    return _part("ablation", said, drawing(chart), table(headings, rows)), chart


def _cost(training: TrainingCost | None, serving: ServingCost) -> Html:
    cards = []
    if training:
        peak = "not told by this system" if training.peak_mb is None else f"{training.peak_mb:,.0f} MB at the peak"
        cards.append(card("training", f"{training.seconds:,.1f} s", f"{training.prompts:,} prompts; {peak}"))
    cards.append(card("one query", f"{serving.median_ms:.2f} ms", f"99 in 100 within {serving.p99_ms:.2f} ms"))
    cards.append(card("size", f"{serving.size_mb:.1f} MB", "of learned state"))
    note = tag("p", "Beyond the prompt's vector, on the machine that made this report.", "note")
    return joined(tag("h3", TITLES["cost"]), tag("div", joined(*cards), "cards"), note)


def _part(study: str, said: str, chart: Html, rows: Html) -> Html:
    return tag("div", joined(tag("h3", TITLES[study]), tag("p", said), chart, folded("As a table", rows)))
