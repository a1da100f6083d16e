"""The command `pointsman tune`. Everything heavy is imported when it runs."""

import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from router.errors import DataError
from training.command_line import (
    CLUSTER,
    ENCODER,
    JOBS,
    JSON,
    SEED,
    TABLES,
    apart,
    embedded,
    note,
    parameters,
    progressing,
    screen,
    tables_by_name,
    write_json,
)

if TYPE_CHECKING:
    from rich.console import Console

    from training.comparison import Comparison
    from training.data import Table
    from training.jobs import Jobs, Shared
    from training.run_folder import RunFolder
    from training.space import Space
    from training.tuning import Attempt, Setting, Trial

SHOWN = 5  # of the best trials


@click.command()
@TABLES
@click.option("--policy", "kind", default="cluster", show_default=True, help="Its kind: a file of `policies`.")
@click.option("--trials", type=click.IntRange(min=1), default=30, show_default=True, help="How many are tried.")
@click.option(
    "--on",
    type=click.Choice(("train", "val")),
    default="train",
    show_default=True,
    help="Choose by cross-validation inside `train`, or by `val`, which is then no longer held out.",
)
@click.option("--folds", type=click.IntRange(min=1), default=3, show_default=True, help="Of `train`; 1: a quarter.")
@click.option("--space", "spaces", metavar="NAME=JSON", multiple=True, help='[1,2] or {"low":1,"high":9}.')
@click.option("--set", "settings", metavar="NAME=VALUE", multiple=True, help="A parameter that is not searched.")
@ENCODER
@JOBS
@CLUSTER
@SEED
@JSON
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="The folder that keeps the search, so that it goes on where it was cut off. "
    "Default: one in the user's cache.",
)
def tune(
    paths: tuple[Path, ...],
    kind: str,
    trials: int,
    on: str,
    folds: int,
    spaces: tuple[str, ...],
    settings: tuple[str, ...],
    encoder: str,
    jobs: int,
    cluster: str | None,
    seed: int,
    json_out: Path | None,
    out: Path | None,
) -> None:
    """Searches a policy's parameters, each table by itself, and holds the best beside the defaults."""
    import optuna  # noqa: F401 - where it is missing, that is said before any work
    from rich.console import Console

    from policies import policy_class
    from training.embedding import user_cache
    from training.fit import build
    from training.jobs import opened
    from training.run_folder import RunFolder
    from training.space import space_of
    from training.tuning import Setting, best_of

    apart(paths, json=json_out)
    console = Console(stderr=True)
    fixed = parameters(settings)
    build(kind, fixed, seed)
    space = space_of(policy_class(kind), kind, parameters(spaces, "--space"), fixed)
    folder = RunFolder.opened(out or user_cache() / "tuned")
    tables = tables_by_name(paths, console)
    with folder.locked(), opened(jobs, cluster, folder.folder) as workers:
        vectors, stamp = embedded(list(tables.values()), encoder, console, jobs=workers if cluster else None)
        pairs = [(table.split("train"), table.split("val")) for table in vectors]
        digests = tuple(table.digest for table in vectors)
        setting = Setting(kind, fixed, seed, folds if on == "train" else 0, stamp, digests)
        default, found = _searched(setting, space, trials, workers.share(pairs), workers, folder, console)
        best = best_of(found)
        if best is None:
            raise DataError(f"none of {len(found)} trials could be judged; the notes say why")
        won = dict(best.params) if best.gain is not None and best.gain > default else {}
        comparisons = _beside(setting, won, dict(zip(tables, pairs, strict=True)), workers, console)
    chosen_by = f"cross-validation in {folds} folds of train" if folds > 1 else "a quarter of train"
    card = {
        "policy": kind,
        "fixed": fixed,
        "space": setting.about(space)["space"],
        "chosen_by": chosen_by if on == "train" else "val",
        "seed": seed,
        "default_gain": default,
        "winner": {"params": won, "gain": best.gain if won else default},
        "trials": [asdict(trial) for trial in found],
        "held_out": on == "train",
        "comparisons": [asdict(comparison) for comparison in comparisons],
    }
    _show(card, comparisons, screen(json_out))
    write_json(json_out, card)


def _searched(
    setting: "Setting",
    space: "Space",
    trials: int,
    tables: "Shared",
    workers: "Jobs",
    folder: "RunFolder",
    console: "Console",
) -> "tuple[float, list[Trial]]":
    """The defaults' gain, and the finished trials. Raises `DataError` where the defaults cannot be judged."""
    from training.tuning import Attempt, Search, attempt

    about = setting.about(space)
    defaults = {**about, "trial": "defaults"}
    known = folder.get(defaults)
    search = Search(folder.folder, about, space, setting.seed)
    if done := search.trials():
        note(console, f"{len(done)} of {trials} trials were there already, in {folder.folder}")

    def items() -> "Iterator[Attempt]":
        if known is None:
            yield Attempt(None, setting, {}, tables)
        for number, params in search.asked(trials):
            yield Attempt(number, setting, params, tables)

    default, best = known, -float("inf")
    with progressing(console, "tuning", max(trials - len(done), 0) + (known is None)) as advance:
        for item, result in workers.run(attempt, items()):
            name = "the defaults" if item.number is None else f"trial {item.number}"
            gain = result.get("gain")
            if item.number is not None:
                search.tell(item.number, gain)
            elif gain is None:
                raise DataError(f"the policy {setting.kind} with its defaults: {result['failed']}")
            else:
                folder.put(defaults, gain)
                default = gain
            if gain is None:
                note(console, f"{name} failed: {result['failed']}")
            best = max(best, best if gain is None else gain)
            advance(f"{name}: {'failed' if gain is None else f'{gain:+.4f}'}, best {best:+.4f}")
    return float(default), search.trials()


def _beside(
    setting: "Setting",
    won: Mapping[str, Any],
    pairs: "Mapping[str, tuple[Table, Table]]",
    workers: "Jobs",
    console: "Console",
) -> "list[Comparison]":
    """The defaults and the winner, if it is another, fitted to all of `train` and judged on `val`."""
    from training.comparison import Contender, Job, averaged, compared, judge

    params = [dict(setting.fixed), *([{**setting.fixed, **won}] if won else [])]
    contenders = [Contender(setting.kind, given, setting.seed) for given in params]
    jobs = [
        Job(name, digest, contender, setting.encoder, parts)
        for (name, pair), digest in zip(pairs.items(), setting.digests, strict=True)
        for parts in (workers.share(pair),)
        for contender in contenders
    ]
    found: dict[str, list[tuple[Contender, Mapping[str, Any]]]] = {name: [] for name in pairs}
    with progressing(console, "judging", len(jobs)) as advance:
        for job, result in workers.run(judge, jobs):
            advance(f"{job.contender.name} on {job.dataset}")
            if "failed" in result:
                raise DataError(f"{job.contender.name} on {job.dataset}: {result['failed']}")
            found[job.dataset].append((job.contender, result))
    comparisons = [compared(name, results) for name, results in found.items()]
    return [*comparisons, averaged(found, comparisons)] if len(found) > 1 else comparisons


def _show(card: Mapping[str, Any], comparisons: "Sequence[Comparison]", console: "Console") -> None:
    from training.comparison import Contender
    from training.standings import show

    fixed, won = card["fixed"], card["winner"]["params"]
    trials = sorted((t for t in card["trials"] if t["gain"] is not None), key=lambda t: -t["gain"])
    lines = [f"gain by {card['chosen_by']}:", f"  {card['default_gain']:+.4f}  the defaults"]
    lines += [f"  {trial['gain']:+.4f}  {_spelled(trial['params'])}" for trial in trials[:SHOWN]]
    if not won:
        lines.append("no trial is better than the defaults: keep them")
    if trials and all(trial["gain"] == card["default_gain"] for trial in trials):
        tried = ", ".join(card["space"])
        lines.append(f"no parameter had any effect on this data: all trials gain the same ({tried})")
    console.print("\n".join(lines), highlight=False, markup=False)
    default, winner = (Contender(card["policy"], params, card["seed"]).name for params in (fixed, {**fixed, **won}))
    names = {default: "the defaults"} | ({winner: "the winner"} if won else {})
    show(comparisons, console, caution=not card["held_out"], names=names)
    if not card["held_out"]:
        console.print("val chose the winner: these rows are no longer held out, and its figure flatters it")
    elif won:
        console.print(_verdict(comparisons, default), highlight=False, markup=False)
    settings = {**fixed, **won}
    options = " ".join(f"--set {shlex.quote(f'{name}={json.dumps(value)}')}" for name, value in settings.items())
    command = f"pointsman train --policy {card['policy']} {options}".strip()
    console.print(command, highlight=False, markup=False, soft_wrap=True)


def _verdict(comparisons: "Sequence[Comparison]", default: str) -> str:
    """Of the winner against the defaults on rows that neither saw."""
    first, second = comparisons[-1].standings
    ahead, other = ("the defaults", "the winner")[:: 1 if first.policy == default else -1]
    sure = "beyond doubt" if second.behind.high < 0 else "but not beyond doubt"
    return f"on rows that neither saw, {ahead} gained more than {other}, {sure}"


def _spelled(params: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}" for name, value in params.items()
    )
