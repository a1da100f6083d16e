"""The command `pointsman evaluate`. Everything heavy is imported when it runs."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from router.errors import ConfigError
from training.command_line import (
    JSON,
    SEED,
    TABLES,
    apart,
    embedded,
    keeping_fits,
    note,
    parameters,
    screen,
    write_json,
)

if TYPE_CHECKING:
    from rich.console import Console

    from training.evaluation import Evaluation


@click.command()
@click.option("--artifact", "folder", type=click.Path(path_type=Path), required=True, help="The artifact's folder.")
@TABLES
@click.option("--split", default="val", show_default=True, help="The rows to judge on; `all` are all.")
@click.option("--encoder", default=None, help="Default: the one that the artifact was trained on.")
@JSON
@click.option(
    "--predictions",
    "predicted",
    type=click.Path(path_type=Path),
    help="Write what is predicted of each query and expert to this Parquet file.",
)
@click.option(
    "--report",
    "page",
    metavar="FILE.html",
    type=click.Path(path_type=Path),
    help="Write a page with charts to this file, and the charts as PNG into a folder beside it.",
)
@click.option(
    "--studies",
    "listed",
    metavar="LIST",
    default="",
    help="Train anew on each table's split `train`: domain,expert,robustness,ablation,cost or all.",
)
@click.option("--ablate", "settings", metavar="NAME=VALUE", multiple=True, help="A setting for `ablation` to try.")
@click.option("--plain", is_flag=True, help="Studies leave out the steps after a policy: up to nine times faster.")
@SEED
def evaluate(
    folder: Path,
    paths: tuple[Path, ...],
    split: str,
    encoder: str | None,
    json_out: Path | None,
    predicted: Path | None,
    page: Path | None,
    listed: str,
    settings: tuple[str, ...],
    plain: bool,
    seed: int,
) -> None:
    """Holds a policy against its bounds on held-out outcomes, each table by itself."""
    from rich.console import Console

    from training.evaluation import Wanted
    from training.render import show
    from training.studies.suite import chosen

    apart(paths, json=json_out, predictions=predicted, report=page)
    if predicted is not None and predicted.suffix != ".parquet":
        raise ConfigError(
            f"--predictions {predicted}: they are written as Parquet; name a file that ends in .parquet"
        )
    console = Console(stderr=True)
    wanted = Wanted(chosen(listed), parameters(settings), plain)
    wanted.check(split)
    if wanted.studies and page is None and json_out is None:
        raise ConfigError("--studies are told in --report FILE.html or --json FILE only: name one")
    if page is not None:
        from training.page.document import check_page

        check_page(page)
    held = _opened(folder, paths, (split, encoder, seed), bool(wanted.studies), console)
    held.check(wanted)
    reports = []
    for name in held.tables:
        with console.status(f"judging on {name}"):
            reports.append(held.report(name))
        show(reports[-1], screen(json_out))
    studies = []
    if wanted.studies or page:
        with keeping_fits(console) as fitted:
            studies = held.studied(wanted, console, fitted)
    for reason in (f"{study} not studied: {why}" for found in studies for study, why in found.missing.items()):
        note(console, reason)
    card = {"kind": held.artifact.kind, "version": held.artifact.version}
    content = {"artifact": card, "split": split, "seed": seed, "notes": held.notes}
    content |= {"reports": [report.as_json() for report in reports]}
    write_json(json_out, {**content, "studies": [found.as_json() for found in studies]})
    if predicted is not None:
        _write_predictions(held, predicted, console)
    if page is not None:
        from training.page.document import write_page

        charts = write_page(held.document(reports, studies), page)
        console.print(f"[green]wrote[/] {page} and, in {charts}, its charts", highlight=False)


def _opened(
    folder: Path,
    paths: Sequence[Path],
    asked: tuple[str, str | None, int],
    with_train: bool,
    console: "Console",
) -> "Evaluation":
    """The artifact, and the tables with their vectors; `asked` are the split, an encoder and the seed."""
    from policies import default_artifact, load_policy
    from training.data import TRAIN, read_tables
    from training.evaluation import Evaluation

    split, encoder, seed = asked
    policy, artifact = load_policy(default_artifact() if str(folder) == "default" else folder)
    whole = {name: read_tables([path]) for name, path in zip(_names(paths), paths, strict=True)}
    tables = {name: table.split(split) for name, table in whole.items()}
    train = {name: table.split(TRAIN) for name, table in whole.items()} if with_train else {}
    for name, table in tables.items():
        for line in table.notes:
            note(console, f"{name}: {line}")
    if artifact.encoder is None:
        return Evaluation(artifact, policy, None, split, seed, tables, train)
    encoder = encoder or artifact.encoder.name
    both, _ = embedded([*tables.values(), *train.values()], encoder, console, artifact)
    tables, train = dict(zip(tables, both, strict=False)), dict(zip(train, both[len(tables) :], strict=True))
    return Evaluation(artifact, policy, encoder, split, seed, tables, train)


def _names(paths: Sequence[Path]) -> list[str]:
    """Their stems, or the paths as given where two would be called the same."""
    stems = [path.stem for path in paths]
    return stems if len(set(stems)) == len(stems) else [str(path) for path in paths]


def _write_predictions(held: "Evaluation", path: Path, console: "Console") -> None:
    from training.predictions import predictions, write_predictions

    parts = [predictions(held.policy, table.outcomes, name) for name, table in held.tables.items()]
    write_predictions(parts, path)
    console.print(f"[green]wrote[/] {path}")
