"""The command `pointsman import`. Everything heavy is imported when it runs."""

import math
from pathlib import Path
from typing import TYPE_CHECKING

import click

from router.errors import ConfigError
from training.command_line import JSON, apart, write_json

if TYPE_CHECKING:
    from rich.console import Console

    from training.importing import Summary


@click.command("import")
@click.argument("paths", type=click.Path(path_type=Path), nargs=-1, required=True)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The Parquet file to write.")
@click.option("--format", "format_name", metavar="NAME", help="Of every file; default: by what each holds.")
@click.option("--dataset", help="The name of the data set; default: the format's.")
@click.option("--encoding", help="Of text files; default: by their mark, else UTF-8.")
@click.option("--rename", metavar="THEIRS=OURS", multiple=True, help="A column's name. May be repeated.")
@click.option("--scale", metavar="MIN,MAX", help="The source's least and greatest score: they become 0 and 1.")
@click.option("--prices", type=click.Path(path_type=Path), help="CSV: model, price_in_per_1m, price_out_per_1m.")
@click.option(
    "--duplicates",
    type=click.Choice(("keep", "drop", "error")),
    default="keep",
    show_default=True,
    help="Rows that repeat a model on a prompt: training averages those that are kept.",
)
@click.option("--keep-split", is_flag=True, help="Take the table's own `split`, not the hash of the prompt.")
@click.option("--trust-pickle", is_flag=True, help="Read pickles, which can run any program of their maker.")
@JSON
def import_(
    paths: tuple[Path, ...],
    out: Path,
    format_name: str | None,
    dataset: str | None,
    encoding: str | None,
    rename: tuple[str, ...],
    scale: str | None,
    prices: Path | None,
    duplicates: str,
    keep_split: bool,
    trust_pickle: bool,
    json_out: Path | None,
) -> None:
    """Turns recorded outcomes of common formats into a table to train on.

    Formats: routerbench, routellm, arena (battles: they become pairs), llmrouter, embedllm, routerarena,
    openai_log, decision_log (its folder will do), and table: your own, with the columns prompt, model, score.
    """
    from rich.console import Console
    from rich.progress import Progress

    from training.importing import import_files, read_prices
    from training.outcome_file import DUPLICATES, Rules
    from training.records import RecordFile

    apart(paths, out=out, json=json_out)
    console = Console(stderr=True)
    rules = Rules(
        dataset=dataset,
        scale=_scale(scale),
        duplicates=next(known for known in DUPLICATES if known == duplicates),
        keep_split=keep_split,
        prices=read_prices(prices) if prices else {},
    )
    names = _renamed(rename)
    files = [RecordFile(path, encoding, trust_pickle, names) for path in _files(paths)]
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("importing", total=1.0)
        summary = import_files(
            files, out, rules, format_name=format_name, progress=lambda share: bar.update(task, completed=share)
        )
    _show(summary, console)
    write_json(json_out, summary.as_json())


def _show(summary: "Summary", console: "Console") -> None:
    counts = summary.counts
    formats = ", ".join(sorted(set(summary.formats.values())))
    splits = ", ".join(f"{rows:,} {name}" for name, rows in sorted(counts.splits.items()))
    console.print(
        f"[green]wrote[/] {summary.out}: {counts.rows:,} {summary.kind} ({formats}), {counts.prompts:,} prompts, "
        f"{len(counts.models):,} models; {splits}",
        highlight=False,
    )
    for reason, number in summary.skipped.items():
        console.print(f"[yellow]skipped[/] {number:,} {reason}", highlight=False)
    for warning in summary.warnings():
        console.print(f"[yellow]warning[/] {warning}", highlight=False)


def _files(paths: tuple[Path, ...]) -> list[Path]:
    """A folder stands for the Parquet files in it and under it; drafts, which begin with a dot, are none."""
    found: list[Path] = []
    for path in paths:
        if not path.is_dir():
            found.append(path)
        elif inside := sorted(one for one in path.rglob("*.parquet") if not one.name.startswith(".")):
            found += inside
        else:
            raise ConfigError(f"the folder {path} holds no Parquet file")
    return found


def _scale(text: str | None) -> tuple[float, float]:
    if text is None:
        return 0.0, 1.0
    try:
        low, high = (float(part) for part in text.split(","))
    except ValueError as error:
        raise ConfigError(f"--scale {text!r}: expected two numbers, MIN,MAX") from error
    if not -math.inf < low < high < math.inf:
        raise ConfigError(f"--scale {text!r}: the first must be less than the second")
    return low, high


def _renamed(pairs: tuple[str, ...]) -> dict[str, str]:
    names = {}
    for pair in pairs:
        theirs, equals, ours = pair.partition("=")
        if not (theirs and equals and ours):
            raise ConfigError(f"--rename {pair!r}: expected THEIRS=OURS")
        names[theirs] = ours
    return names
