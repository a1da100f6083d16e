"""The command `pointsman inspect`. Everything heavy is imported when it runs."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from training.command_line import JSON, screen, write_json

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from training.cards import ArtifactCard, PairsCard, TableCard

ROWS = 40  # of a listing, so that all fits on a screen
COLOURS = {"enough": "green", "thin": "yellow", "not enough": "red"}


@click.command()
@click.argument("target")
@JSON
def inspect(target: str, json_out: Path | None) -> None:
    """Shows what an ARTIFACT's folder or a TABLE holds; `default` is the artifact that ships.

    Of a table it says whether there is enough to train a policy on.
    """
    from policies import default_artifact
    from training.cards import ArtifactCard, TableCard
    from training.inspection import inspect_artifact, inspect_table

    path = Path(target)
    if target == "default" and not path.exists():
        path = default_artifact()
    card = inspect_artifact(path) if path.is_dir() or path.suffix == "" else inspect_table(path)
    console = screen(json_out)
    if isinstance(card, ArtifactCard):
        _show_artifact(card, console)
    elif isinstance(card, TableCard):
        _show_table(card, console)
    else:
        _show_pairs(card, console)
    write_json(json_out, asdict(card))


def _show_artifact(card: "ArtifactCard", console: "Console") -> None:
    encoder = card.encoder
    _facts(
        console,
        {
            "policy": f"{card.kind}@{card.version}",
            "parameters": _pairs(card.params),
            "encoder": f"{encoder['name']}, {encoder['dimension']} dimensions ({encoder['revision']})"
            if encoder
            else "none: the query is not read",
            "trained on": f"data {card.data_digest[:16]}; {_pairs(card.metrics)}",
            "size": ", ".join(f"{name} {_size(size)}" for name, size in card.files.items()),
        },
    )
    table = _table("expert", "quality", "std", "output tokens")
    for expert in card.experts[:ROWS]:
        figures = (f"{expert.quality:.3f}", f"{expert.std:.3f}", f"{expert.output_tokens:,.0f}")
        table.add_row(expert.name, *figures)
    console.print(table)
    _more(console, len(card.experts))
    console.print(f"means over the {card.reference_queries:,} reference queries", highlight=False)


def _show_table(card: "TableCard", console: "Console") -> None:
    low, high = card.scores or (float("nan"), float("nan"))
    _facts(
        console,
        {
            "table": f"{card.path}, {_size(card.bytes)}",
            "rows": f"{card.rows:,}, {card.repeats:,} of them repeat a model on a prompt",
            "prompts": f"{card.prompts:,}; {_counts(card.splits)}"
            + (f"; {card.straddling:,} in several splits" if card.straddling else ""),
            "coverage": f"{card.coverage:.1%} of prompts x models have a score",
            "scores": f"{low:g} to {high:g}, {card.missing_scores:,} missing",
            "costs": f"{card.costs / card.rows:.1%} of the rows",
            "domains": _counts(card.domains) or "none named",
        },
    )
    table = _table("model", "rows", "scored", "mean score", "USD/query", "output tokens")
    for model in card.models[:ROWS]:
        means = ((model.score, ".3f"), (model.cost_usd, ".3g"), (model.output_tokens, ",.0f"))
        figures = ("" if mean is None else f"{mean:{form}}" for mean, form in means)
        table.add_row(model.name, f"{model.rows:,}", f"{model.scored:,}", *figures)
    console.print(table)
    _more(console, len(card.models))
    console.print(f"[{COLOURS[card.verdict.answer]}]{card.verdict.answer}[/] to train a policy on", highlight=False)
    for reason in card.verdict.reasons:
        console.print(f"  {reason}", highlight=False)


def _show_pairs(card: "PairsCard", console: "Console") -> None:
    _facts(
        console,
        {
            "pairs": f"{card.path}, {_size(card.bytes)}",
            "judgments": f"{card.rows:,}; {_counts(card.winners)}",
            "prompts": f"{card.prompts:,}; {_counts(card.splits)}",
        },
    )
    table = _table("model", "battles")
    for name, battles in list(card.models.items())[:ROWS]:
        table.add_row(name, f"{battles:,}")
    console.print(table)
    _more(console, len(card.models))


def _facts(console: "Console", facts: Mapping[str, str]) -> None:
    from rich.table import Table

    grid = Table.grid(padding=(0, 2, 0, 0))
    for name, value in facts.items():
        grid.add_row(f"[bold]{name}[/]", value)
    console.print(grid, highlight=False)


def _table(first: str, *numbers: str) -> "Table":
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column(first)
    for name in numbers:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _more(console: "Console", rows: int) -> None:
    if rows > ROWS:
        console.print(f"and {rows - ROWS:,} more; --json has them all", highlight=False)


def _counts(counts: Mapping[str, int], shown: int = 12) -> str:
    parts = [f"{name} {number:,}" for name, number in list(counts.items())[:shown]]
    return ", ".join(parts + ([f"and {len(counts) - shown} more"] if len(counts) > shown else []))


def _pairs(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items()) or "none"


def _size(size: int) -> str:
    return f"{size / 1e6:.1f} MB" if size >= 1e5 else f"{size / 1e3:.1f} kB"
