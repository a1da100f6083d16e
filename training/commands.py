"""The command `pointsman train`. Everything heavy is imported when it runs."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from router.errors import ConfigError, DataError
from training.command_line import (
    CLUSTER,
    ENCODER,
    JSON,
    SEED,
    TABLES,
    KindOption,
    apart,
    embedded,
    keeping_fits,
    named,
    note,
    parameters,
    workers_of,
    write_json,
)

if TYPE_CHECKING:
    from rich.console import Console

    from router.artifact import Artifact
    from router.policy import Policy
    from training.data import Table


@click.command()
@TABLES
@click.option("--policy", "kind", cls=KindOption, default="cluster", show_default=True, help="Its kind.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The artifact's folder.")
@click.option("--split", default="train", show_default=True, help="The rows to learn from; `all` are all.")
@click.option("--set", "settings", metavar="NAME=VALUE", multiple=True, help="A parameter of the policy.")
@ENCODER
@CLUSTER
@JSON
@click.option(
    "--plain",
    is_flag=True,
    help="Leave out what follows the policy: calibration, distrust of unlike queries, evidence for floors.",
)
@click.option(
    "--extend",
    "base",
    metavar="ARTIFACT",
    type=click.Path(path_type=Path),
    help="Fit nothing: add the models that this artifact does not know to it, by a hundred prompts or so.",
)
@SEED
def train(
    paths: tuple[Path, ...],
    kind: str,
    out: Path,
    split: str,
    settings: tuple[str, ...],
    encoder: str,
    cluster: str | None,
    json_out: Path | None,
    plain: bool,
    base: Path | None,
    seed: int,
) -> None:
    """Fits a policy to recorded outcomes, judges it on what was held out, and writes its artifact."""
    from rich.console import Console
    from rich.progress import Progress

    from router.artifact import save
    from training.assurance import LEAST_PROMPTS, MOST_FITS
    from training.data import TRAIN, read_tables
    from training.fit import build, fit

    apart(paths, json=json_out, out=out)
    console = Console(stderr=True)
    policy, old = _known(base) if base is not None else (build(kind, parameters(settings), seed), None)
    whole = read_tables(paths)
    table = whole.split(split)
    held_out = _held_out(paths, whole) if split == TRAIN else {}
    for line in table.notes:
        note(console, line)
    if old is not None and held_out:
        note(console, f"{len(whole.prompts) - len(table.prompts)} prompts are held out; --split all takes them too")
    stamp = None
    if policy.reads_query:
        if old is not None and old.encoder is not None and not _given("encoder"):
            encoder = old.encoder.name
        with workers_of(cluster) as jobs:
            (table, *others), stamp = embedded([table, *held_out.values()], encoder, console, old, jobs)
        held_out = dict(zip(held_out, others, strict=True))
    if old is not None:
        artifact, policy = _extended(policy, old, table, seed, console)
        kind = artifact.kind
    else:
        with keeping_fits(console) as fitted, Progress(console=console, transient=True) as progress:
            task = progress.add_task(f"fitting {kind}", total=1 if plain else MOST_FITS)
            advance = partial(progress.advance, task)
            artifact = fit(policy, table, stamp, seed, assure=not plain, fitting=advance, fitted=fitted)
        if not plain and artifact.trial is None:
            note(console, f"no calibration and no evidence for floors: that takes {LEAST_PROMPTS} prompts")
    with console.status("judging"):
        policy = artifact.restore(policy)  # as it will be served
        artifact, beats = _judged(artifact, policy, held_out, seed, console)
    version = save(artifact, out)
    console.print(f"[green]wrote[/] {out} ({kind}@{version}, {len(artifact.experts)} experts)", highlight=False)
    card = {"artifact": str(out), "kind": kind, "version": version, "experts": artifact.experts}
    write_json(json_out, {**card, **artifact.metrics, "beats_static_mix": beats})


def _given(name: str) -> bool:
    """Whether a parameter stands on the command line."""
    return click.get_current_context().get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE


def _known(base: Path) -> "tuple[Policy, Artifact]":
    """The policy and artifact to be extended. Raises `ConfigError` for options that belong to a new policy."""
    from policies import default_artifact, load_policy

    for name, option in (("kind", "--policy"), ("settings", "--set"), ("plain", "--plain")):
        if _given(name):
            raise ConfigError(f"{option} is of a policy that is fitted: --extend keeps the one in {base}")
    return load_policy(default_artifact() if str(base) == "default" else base)


def _extended(
    policy: "Policy", artifact: "Artifact", table: "Table", seed: int, console: "Console"
) -> "tuple[Artifact, Policy]":
    """The artifact with its new experts, and its policy without the steps that follow it."""
    from training.extend import extended
    from training.fit import build

    extension = extended(artifact, policy, table, seed)
    for line in extension.notes:
        note(console, line)
    return extension.artifact, build(artifact.kind, artifact.params, seed)


def _held_out(paths: tuple[Path, ...], union: "Table") -> "dict[str, Table]":
    """Each table's held-out rows, by the table's name; a table without any is left out."""
    from training.data import VAL, read_tables

    tables = {name: union if len(paths) == 1 else read_tables([path]) for name, path in named(paths).items()}
    return {name: table.split(VAL) for name, table in tables.items() if VAL in table.splits}


def _judged(
    artifact: "Artifact", policy: "Policy", held_out: "dict[str, Table]", seed: int, console: "Console"
) -> "tuple[Artifact, dict[str, bool]]":
    """The artifact with what the policy reaches on held-out rows; by table, whether that beats the static mix."""
    from dataclasses import replace

    import numpy as np

    from training.data import VAL
    from training.evaluate import evaluate as judge
    from training.render import VERDICTS, spelled

    found, beats = {}, {}
    for name, table in held_out.items():
        try:
            report = judge(policy, table.outcomes, np.random.default_rng(seed), dataset=name)
        except DataError as error:
            note(console, f"not judged on {name}: {error}")
            continue
        found[name], beats[name] = report.brief(), report.gain.low > 0
        line = f"{name}: area above the static mix {spelled(report.gain, '+.4f')}: {VERDICTS[beats[name]]}"
        console.print(line, highlight=False, markup=False)
    if not held_out:
        note(console, f"not judged: there are no rows of the split {VAL!r}, so what it is worth is not known")
    before = artifact.metrics.get(VAL, {})  # an extended artifact's: of the experts that it had
    return replace(artifact, metrics={**artifact.metrics, VAL: {**before, **found}}), beats
