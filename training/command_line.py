"""What training's commands share: their options, the vectors of tables, notes and JSON files."""

import json
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from router.errors import ConfigError, DataError, PointsmanError

if TYPE_CHECKING:
    from rich.console import Console

    from router.artifact import Artifact, EncoderStamp
    from training.data import Table
    from training.jobs import Jobs
    from training.kept_fits import KeptFits

TABLES = click.option(
    "--data",
    "paths",
    type=click.Path(path_type=Path),
    multiple=True,
    required=True,
    help="A table of outcomes (.parquet or .csv): prompt, model, score, and what else it has. May be repeated.",
)
SEED = click.option("--seed", default=0, show_default=True, help="Of everything drawn at random.")
ENCODER = click.option(
    "--encoder", default="all-MiniLM-L6-v2", show_default=True, help="Embeds the prompts: name or folder."
)
CLUSTER = click.option(
    "--cluster",
    metavar="ray://HOST:PORT",
    help="A Ray cluster to work on (`local`: one started here); its machines need this version of Pointsman.",
)
STDOUT = Path("-")
WIDTH = 120  # of a table that goes into a file or a pipe


class KindOption(click.Option):
    """A policy's kind; the help lists those there are."""

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        from policies import kinds

        names, text = super().get_help_record(ctx) or ("", "")
        return names, f"{text} There are: {', '.join(kinds())}."


def writable(ctx: click.Context, param: click.Parameter, path: Path | None) -> Path | None:
    """Said before hours of work, not after them."""
    if path is not None and path != STDOUT and not path.parent.is_dir():
        raise DataError(f"cannot write {path}: there is no folder {path.parent}")
    return path


@contextmanager
def _told() -> Iterator[None]:
    """A mistake is JSON too, on standard output: `{"error": {"type": ..., "message": ...}}`.

    Never in a file: that may be what the mistake is about, such as a table that would be written over.
    """
    try:
        yield
    except (PointsmanError, click.ClickException) as error:
        message = error.format_message() if isinstance(error, click.ClickException) else str(error)
        write_json(STDOUT, {"error": {"type": type(error).__name__, "message": message}})
        raise


def _json_place(ctx: click.Context, param: click.Parameter, path: Path | None) -> Path | None:
    if path == STDOUT:
        ctx.with_resource(_told())
    return writable(ctx, param, path)


#: Every command's: what it found, for machines.
JSON = click.option(
    "--json",
    "json_out",
    metavar="FILE",
    type=click.Path(path_type=Path),
    callback=_json_place,
    is_eager=True,
    help="Write the result as JSON to FILE; `-`: to standard output, errors too, and all else to standard error.",
)
JOBS = click.option(
    "--jobs",
    type=click.IntRange(min=1),
    default=lambda: min(len(os.sched_getaffinity(0)), 8),
    show_default="the cores there are",
    help="How many policies are trained at a time, each in a process of its own.",
)


def embedded(
    tables: "list[Table]",
    name: str,
    console: "Console",
    artifact: "Artifact | None" = None,
    jobs: "Jobs | None" = None,
) -> "tuple[list[Table], EncoderStamp]":
    """The tables with their vectors, cached ones where known; `jobs` have their workers encode the others.

    Raises where the encoder is not the artifact's.
    """
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
                table.embedded(cache.embed(table.prompts, lambda done: progress.advance(task, done), jobs))
                for table in tables
            ]
    finally:
        encoder.close()
    return embedded, stamp


def apart(inputs: Iterable[Path], **outputs: Path | None) -> None:
    """Raises `ConfigError` where an output would be written over what is read, or over another output."""
    taken = {path.resolve(): f"the file that is read, {path}" for path in inputs}
    for option, path in outputs.items():
        if path is None or path == STDOUT:
            continue
        if path.resolve() in taken:
            raise ConfigError(f"--{option} {path} would be written over {taken[path.resolve()]}")
        if path.is_file() or not path.exists():  # two may go to /dev/null
            taken[path.resolve()] = f"--{option}"


@contextmanager
def workers_of(cluster: str | None) -> "Iterator[Jobs | None]":
    """The cluster's workers; None where there is no cluster."""
    from training.jobs import opened

    if cluster is None:
        yield None
        return
    with opened(1, cluster, Path()) as jobs:
        yield jobs


def named(paths: Sequence[Path]) -> dict[str, Path]:
    """Tables that are judged each by itself, by their name. Raises `ConfigError` where two have the same."""
    names: dict[str, Path] = {}
    for path in paths:
        if path.stem in names:
            raise ConfigError(f"--data {path}: {names[path.stem]} has the same name, {path.stem!r}; rename one")
        names[path.stem] = path
    return names


def tables_by_name(paths: Sequence[Path], console: "Console") -> "dict[str, Table]":
    """Tables that are judged each by itself; what is odd about them is noted."""
    from training.data import read_tables

    tables = {name: read_tables([path]) for name, path in named(paths).items()}
    for name, table in tables.items():
        for line in table.notes:
            note(console, f"{name}: {line}")
    return tables


def parameters(settings: tuple[str, ...], option: str = "--set") -> dict[str, Any]:
    """`name=value` pairs; values are read as JSON where they are, else as text."""
    parameters: dict[str, Any] = {}
    for setting in settings:
        name, equals, value = setting.partition("=")
        if not equals:
            raise ConfigError(f"{option} {setting!r}: expected NAME=VALUE")
        try:
            parameters[name] = json.loads(value)
        except ValueError:
            parameters[name] = value
    return parameters


def write_json(path: Path | None, content: Mapping[str, Any]) -> None:
    """To a file, whole or not at all, or to standard output (`STDOUT`); numbers that are not finite become null."""
    from router.files import write_whole

    if path is None:
        return
    text = json.dumps(_finite(content), indent=1, ensure_ascii=False)
    if path == STDOUT:
        click.echo(text)
        return
    try:
        write_whole(path, (text + "\n").encode("utf-8", "replace"))
    except OSError as error:
        raise DataError(f"cannot write {path}: {error.strerror}") from error


def _finite(content: Any) -> Any:
    if isinstance(content, Mapping):
        return {key: _finite(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_finite(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


def screen(json_out: Path | None) -> "Console":
    """Where a person reads the result: standard output, unless JSON goes there."""
    from rich.console import Console

    console = Console(stderr=json_out == STDOUT)
    return console if console.is_terminal else Console(stderr=json_out == STDOUT, width=WIDTH)


@contextmanager
def progressing(console: "Console", title: str, total: int) -> Iterator[Callable[[str], None]]:
    """To be called with a line on each finished part: a bar on a terminal, else a line each."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(title, total=total)
        done = 0

        def advance(line: str) -> None:
            nonlocal done
            done += 1
            bar.advance(task)
            if not console.is_terminal:
                console.print(f"{title} {done}/{total}: {line}", highlight=False, markup=False, soft_wrap=True)

        yield advance


@contextmanager
def keeping_fits(console: "Console") -> "Iterator[KeptFits]":
    """Keeps what is fitted in the block, in the user's cache, until the block ends well; says where it goes on."""
    from training.embedding import user_cache
    from training.kept_fits import KeptFits

    fits = KeptFits(
        user_cache() / "fits", lambda folder: note(console, f"going on from a run that was cut off, {folder}")
    )
    yield fits
    if fits.found:
        note(console, f"{fits.found} fits were there already")
    fits.forget()


def note(console: "Console", text: str) -> None:
    console.print(f"note: {text}", highlight=False, markup=False)
