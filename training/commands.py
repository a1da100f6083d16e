"""The commands `pointsman train` and `pointsman evaluate`. Everything heavy is imported when one runs."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from router.errors import ConfigError, DataError

if TYPE_CHECKING:
    from rich.console import Console

    from router.artifact import Artifact, EncoderStamp
    from router.policy import Policy
    from training.data import Table

TABLES = click.option(
    "--data",
    "paths",
    type=click.Path(path_type=Path),
    multiple=True,
    required=True,
    help="A table of outcomes (.parquet or .csv): prompt, model, score, and what else it has. May be repeated.",
)
SEED = click.option("--seed", default=0, show_default=True, help="Of everything drawn at random.")


@click.command()
@TABLES
@click.option("--policy", "kind", default="cluster", show_default=True, help="Its kind: a file of `policies`.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The artifact's folder.")
@click.option("--split", default="train", show_default=True, help="The rows to learn from; `all` are all.")
@click.option("--set", "settings", metavar="NAME=VALUE", multiple=True, help="A parameter of the policy.")
@click.option(
    "--encoder", default="all-MiniLM-L6-v2", show_default=True, help="Embeds the prompts: name or folder."
)
@click.option("--json", "as_json", is_flag=True, help="Print the artifact's card as JSON.")
@SEED
def train(
    paths: tuple[Path, ...],
    kind: str,
    out: Path,
    split: str,
    settings: tuple[str, ...],
    encoder: str,
    as_json: bool,
    seed: int,
) -> None:
    """Fits a policy to recorded outcomes, judges it on what was held out, and writes its artifact."""
    from rich.console import Console

    from router.artifact import save
    from training.data import TRAIN, read_tables
    from training.fit import build, fit

    console = Console(stderr=True)
    policy = build(kind, _parameters(settings), seed)
    table = read_tables(paths).split(split)
    held_out = _held_out(paths) if split == TRAIN else {}
    for note in table.notes:
        _note(console, note)
    stamp = None
    if policy.reads_query:
        (table, *others), stamp = _embedded([table, *held_out.values()], encoder, console)
        held_out = dict(zip(held_out, others, strict=True))
    with console.status(f"fitting {kind}"):
        artifact = fit(policy, table, stamp, seed)
        artifact = _judged(artifact, policy, held_out, seed, console)
    version = save(artifact, out)
    if as_json:
        card = {"artifact": str(out), "kind": kind, "version": version, "experts": artifact.experts}
        click.echo(json.dumps({**card, **artifact.metrics}))
    else:
        console.print(f"[green]wrote[/] {out} ({kind}@{version}, {len(artifact.experts)} experts)", highlight=False)


@click.command()
@click.option("--artifact", "folder", type=click.Path(path_type=Path), required=True, help="The artifact's folder.")
@TABLES
@click.option("--split", default="val", show_default=True, help="The rows to judge on; `all` are all.")
@click.option("--encoder", default=None, help="Default: the one that the artifact was trained on.")
@click.option("--json", "out", type=click.Path(path_type=Path), help="Write every figure to this file.")
@click.option(
    "--predictions",
    "predicted",
    type=click.Path(path_type=Path),
    help="Write what is predicted of each query and expert to this Parquet file.",
)
@SEED
def evaluate(
    folder: Path,
    paths: tuple[Path, ...],
    split: str,
    encoder: str | None,
    out: Path | None,
    predicted: Path | None,
    seed: int,
) -> None:
    """Holds a policy against its bounds on held-out outcomes, each table by itself."""
    import numpy as np
    from rich.console import Console

    from policies import default_artifact, load_policy
    from training.data import read_tables
    from training.evaluate import evaluate as judge
    from training.render import show

    console = Console(stderr=True)
    policy, artifact = load_policy(default_artifact() if str(folder) == "default" else folder)
    tables = [read_tables([path]).split(split) for path in paths]
    notes = [f"{path.name}: {note}" for path, table in zip(paths, tables, strict=True) for note in table.notes]
    for note in notes:
        _note(console, note)
    if artifact.encoder is not None:
        tables, _ = _embedded(tables, encoder or artifact.encoder.name, console, artifact)
    reports = []
    for path, table in zip(paths, tables, strict=True):
        with console.status(f"judging on {path.name}"):
            reports.append(judge(policy, table.outcomes, np.random.default_rng(seed), dataset=path.stem))
        show(reports[-1], Console())
    if out is not None:
        card = {"kind": artifact.kind, "version": artifact.version}
        report = {"artifact": card, "split": split, "seed": seed, "notes": notes}
        _write_json(out, {**report, "reports": [report.as_json() for report in reports]})
        console.print(f"[green]wrote[/] {out}")
    if predicted is not None:
        from training.predictions import predictions, write_predictions

        named = zip(paths, tables, strict=True)
        write_predictions([predictions(policy, table.outcomes, path.stem) for path, table in named], predicted)
        console.print(f"[green]wrote[/] {predicted}")


def _held_out(paths: tuple[Path, ...]) -> "dict[str, Table]":
    """Each table's held-out rows, by the table's name; a table without any is left out."""
    from training.data import VAL, read_tables

    tables = {path.stem: read_tables([path]) for path in paths}
    return {name: table.split(VAL) for name, table in tables.items() if VAL in table.splits}


def _judged(
    artifact: "Artifact", policy: "Policy", held_out: "dict[str, Table]", seed: int, console: "Console"
) -> "Artifact":
    """The artifact with what the policy reaches on held-out rows."""
    from dataclasses import replace

    import numpy as np

    from training.data import VAL
    from training.evaluate import evaluate as judge

    found = {}
    for name, table in held_out.items():
        try:
            found[name] = judge(policy, table.outcomes, np.random.default_rng(seed), dataset=name).brief()
        except DataError as error:
            _note(console, f"not judged on {name}: {error}")
    return replace(artifact, metrics={**artifact.metrics, VAL: found})


def _embedded(
    tables: "list[Table]", name: str, console: "Console", artifact: "Artifact | None" = None
) -> "tuple[list[Table], EncoderStamp]":
    """The tables with their vectors, cached ones where known. Raises where the encoder is not the artifact's."""
    from rich.progress import Progress

    from router.artifact import EncoderStamp, check_encoder
    from router.config import EncoderSettings
    from router.embedding import Encoder
    from training.embedding import VectorCache

    encoder = Encoder(EncoderSettings(model=name))
    encoder.load()
    try:
        stamp = EncoderStamp(name=encoder.name, revision=encoder.revision, dimension=encoder.dimension)
        if artifact is not None:
            check_encoder(artifact, stamp.name, stamp.revision, stamp.dimension)
        cache = VectorCache(encoder)
        with Progress(console=console, transient=True) as progress:
            task = progress.add_task("embedding prompts", total=sum(len(table.outcomes) for table in tables))
            embedded = [
                table.embedded(cache.embed(table.prompts, lambda done: progress.advance(task, done)))
                for table in tables
            ]
    finally:
        encoder.close()
    return embedded, stamp


def _parameters(settings: tuple[str, ...]) -> dict[str, Any]:
    """`name=value` pairs; values are read as JSON where they are, else as text."""
    parameters: dict[str, Any] = {}
    for setting in settings:
        name, equals, value = setting.partition("=")
        if not equals:
            raise ConfigError(f"--set {setting!r}: expected NAME=VALUE")
        try:
            parameters[name] = json.loads(value)
        except ValueError:
            parameters[name] = value
    return parameters


def _write_json(path: Path, content: dict[str, Any]) -> None:
    from router.files import write_whole

    try:
        write_whole(path, (json.dumps(content, indent=1) + "\n").encode())
    except OSError as error:
        raise DataError(f"cannot write {path}: {error.strerror}") from error


def _note(console: "Console", text: str) -> None:
    console.print(f"note: {text}", highlight=False, markup=False)
