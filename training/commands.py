"""The commands `pointsman train` and `pointsman evaluate`. Everything heavy is imported when one runs."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from router.errors import ConfigError, DataError

if TYPE_CHECKING:
    from router.artifact import EncoderStamp
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
    """Fits a policy to recorded outcomes and writes its artifact."""
    from rich.console import Console

    from router.artifact import save
    from training.data import read_tables
    from training.fit import build, fit

    console = Console(stderr=True)
    policy = build(kind, _parameters(settings), seed)
    table = read_tables(paths)
    for note in table.notes:
        console.print(f"[yellow]note[/] {note}")
    table = table.split(split)
    stamp = None
    if policy.reads_query:
        table, stamp = _embedded(table, encoder, console)
    with console.status(f"fitting {kind} to {len(table.outcomes):,} prompts"):
        artifact = fit(policy, table, stamp, seed)
    version = save(artifact, out)
    card = {"artifact": str(out), "kind": kind, "version": version, "experts": artifact.experts, **artifact.metrics}
    if as_json:
        click.echo(json.dumps(card))
    else:
        console.print(f"[green]wrote[/] {out} ({kind}@{version}, {len(artifact.experts)} experts)")


@click.command()
@click.option("--artifact", "folder", type=click.Path(path_type=Path), required=True, help="The artifact's folder.")
@TABLES
@click.option("--split", default="val", show_default=True, help="The rows to judge on; `all` are all.")
@click.option("--encoder", default=None, help="Default: the one that the artifact was trained on.")
@click.option("--json", "out", type=click.Path(path_type=Path), help="Write every figure to this file.")
@SEED
def evaluate(
    folder: Path, paths: tuple[Path, ...], split: str, encoder: str | None, out: Path | None, seed: int
) -> None:
    """Holds a policy against its bounds on held-out outcomes, each table by itself."""
    import numpy as np
    from rich.console import Console

    from policies import load_policy
    from router.files import write_whole
    from training.data import read_tables
    from training.evaluate import evaluate as judge
    from training.render import show

    console = Console(stderr=True)
    policy, artifact = load_policy(folder)
    reports = []
    for path in paths:
        table = read_tables([path]).split(split)
        if artifact.encoder is not None:
            table, _ = _embedded(table, encoder or artifact.encoder.name, console, artifact.encoder)
        with console.status(f"judging on {path.name}"):
            rng = np.random.default_rng(seed)
            reports.append(judge(policy, table.outcomes, rng, dataset=path.stem, notes=table.notes))
        show(reports[-1], Console())
    if out is not None:
        content = {
            "artifact": {"kind": artifact.kind, "version": artifact.version},
            "split": split,
            "seed": seed,
            "reports": [report.as_json() for report in reports],
        }
        try:
            write_whole(out, (json.dumps(content, indent=1) + "\n").encode())
        except OSError as error:
            raise DataError(f"cannot write {out}: {error.strerror}") from error
        console.print(f"[green]wrote[/] {out}")


def _embedded(
    table: "Table", name: str, console: Any, expected: "EncoderStamp | None" = None
) -> "tuple[Table, EncoderStamp]":
    """The table with its vectors, cached ones where known. Raises where the encoder is not `expected`."""
    from rich.progress import Progress

    from router.artifact import EncoderStamp
    from router.config import EncoderSettings
    from router.embedding import Encoder
    from router.errors import ArtifactError
    from training.embedding import VectorCache

    encoder = Encoder(EncoderSettings(model=name))
    encoder.load()
    try:
        stamp = EncoderStamp(name=encoder.name, revision=encoder.revision, dimension=encoder.dimension)
        if expected is not None and stamp != expected:
            raise ArtifactError(f"the artifact was trained on the encoder {expected}, but {stamp} is loaded")
        prompts = table.outcomes.queries.prompts
        assert prompts is not None
        with Progress(console=console, transient=True) as progress:
            task = progress.add_task("embedding prompts", total=len(prompts))
            vectors = VectorCache(encoder).embed(prompts, lambda done: progress.advance(task, done))
    finally:
        encoder.close()
    return table.embedded(vectors), stamp


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
