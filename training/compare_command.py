"""The command `pointsman compare`. Everything heavy is imported when it runs."""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from router.errors import ConfigError, DataError
from training.command_line import (
    CLUSTER,
    ENCODER,
    JOBS,
    JSON,
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

    from training.comparison import Contender, Job
    from training.jobs import Jobs
    from training.run_folder import RunFolder

Found = list[tuple["Contender", Mapping[str, Any]]]


@click.command()
@TABLES
@click.option("--policies", metavar="KIND,KIND,...", help="Default: every kind that can be trained here.")
@click.option("--set", "settings", metavar="KIND.NAME=VALUE", multiple=True, help="A parameter of one policy.")
@click.option("--seeds", metavar="0,1,... or 0-4", default="0", show_default=True, help="Each trains every policy.")
@ENCODER
@JOBS
@CLUSTER
@click.option(
    "--assure", is_flag=True, help="Learn what follows a policy too, as `train` does: up to nine fits each."
)
@JSON
@click.option(
    "--report", "page", type=click.Path(path_type=Path), help="One HTML file; its charts beside it as PNG."
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="The folder that keeps each finished result, so that a run goes on where it was cut off. "
    "Default: one in the user's cache.",
)
def compare(
    paths: tuple[Path, ...],
    policies: str | None,
    settings: tuple[str, ...],
    seeds: str,
    encoder: str,
    jobs: int,
    cluster: str | None,
    assure: bool,
    json_out: Path | None,
    page: Path | None,
    out: Path | None,
) -> None:
    """Trains many policies on the same rows and judges them on the same held-out ones, each table by itself."""
    from rich.console import Console

    from training.comparison import Job, averaged, compared, parts_of
    from training.embedding import user_cache
    from training.jobs import opened
    from training.run_folder import RunFolder
    from training.standings import show

    apart(paths, json=json_out, report=page)
    if page is not None:
        from training.page.document import check_page

        check_page(page)
    console = Console(stderr=True)
    wanted = _contenders(policies, settings, _seeds(seeds))
    folder = RunFolder.opened(out or user_cache() / "compared")
    tables = tables_by_name(paths, console)
    with opened(jobs, cluster, folder.folder) as workers:
        vectors, stamp = embedded(list(tables.values()), encoder, console, jobs=workers if cluster else None)
        planned = [
            Job(name, table.digest, contender, stamp, parts, assure)
            for name, table in zip(tables, vectors, strict=True)
            for parts in (workers.share(parts_of(table)),)
            for contender in wanted
        ]
        results = _results(planned, workers, folder, console)
    by_table: dict[str, Found] = {name: [] for name in tables}
    failed: dict[str, str] = {}
    for job, result in results:
        if "failed" in result:
            failed[f"{job.contender.name} on {job.dataset}"] = result["failed"]
        else:
            by_table[job.dataset].append((job.contender, result))
    judged = {name: found for name, found in by_table.items() if found}
    comparisons = [compared(name, found) for name, found in judged.items()]
    if len(judged) > 1 and set.intersection(*({c.name for c, _ in found} for found in judged.values())):
        comparisons.append(averaged(judged, comparisons))
    if comparisons:
        show(comparisons, screen(json_out), caution=True)
    for name, reason in failed.items():
        note(console, f"left out: {name}: {reason}")
    card = {"policies": sorted({c.name for c in wanted}), "left_out": failed, "results": str(folder.folder)}
    write_json(json_out, {**card, "comparisons": [asdict(comparison) for comparison in comparisons]})
    if page is not None and comparisons:
        from training.page.comparison_page import comparison_page
        from training.page.document import written

        charts = written(*comparison_page(comparisons, [f"{name}: {why}" for name, why in failed.items()]), page)
        note(console, f"wrote {page} and, in {charts}, its charts")
    if policies is not None:
        _refuse_failures(policies, failed)
    if not comparisons:
        raise DataError("no policy could be trained and judged; the notes say why")


def _results(
    planned: "Sequence[Job]", workers: "Jobs", folder: "RunFolder", console: "Console"
) -> "list[tuple[Job, Mapping[str, Any]]]":
    """Of every job, in the order planned: those that were kept, and the others as they are made."""
    from training.comparison import judge

    results = {id(job): result for job in planned if (result := folder.get(job.about)) is not None}
    if results:
        note(console, f"{len(results)} of {len(planned)} results were there already, in {folder.folder}")
    left = [job for job in planned if id(job) not in results]
    with progressing(console, "comparing", len(left)) as advance:
        for job, result in workers.run(judge, left):
            if "failed" not in result:  # what failed may be mended outside: it is tried again
                folder.put(job.about, result)
            results[id(job)] = result
            advance(f"{job.contender.name}, seed {job.contender.seed}, on {job.dataset}")
    return [(job, results[id(job)]) for job in planned]


def _contenders(policies: str | None, settings: tuple[str, ...], seeds: Sequence[int]) -> "list[Contender]":
    """Every kind with every seed, and the yardstick. Raises `ConfigError` for a kind or parameter unknown."""
    from policies import kinds, policy_class
    from training.comparison import Contender
    from training.fit import build
    from training.true_domain import TRUE_DOMAIN

    names = kinds() if policies is None else [name.strip() for name in policies.split(",")]
    given: dict[str, dict[str, Any]] = {}
    for setting, value in parameters(settings).items():
        kind, _, name = setting.partition(".")
        if not name or kind not in names:
            raise ConfigError(f"--set {setting}: expected KIND.NAME=VALUE, KIND being one of {', '.join(names)}")
        given.setdefault(kind, {})[name] = value
    found = []
    for kind in dict.fromkeys(names):
        try:
            build(kind, given.get(kind, {}), seeds[0])
            drawn = "rng" in inspect.signature(policy_class(kind)).parameters
        except ModuleNotFoundError:
            drawn = False  # the job itself says what is missing
        found += [Contender(kind, given.get(kind, {}), seed) for seed in (seeds if drawn else seeds[:1])]
    return [*found, Contender(TRUE_DOMAIN, {}, seeds[0])]


def _seeds(text: str) -> list[int]:
    """`0,1,4` or `0-4` or both."""
    found: list[int] = []
    try:
        for part in text.split(","):
            first, _, last = part.partition("-")
            found += range(int(first), int(last or first) + 1)
    except ValueError as error:
        raise ConfigError(f"--seeds {text!r}: expected numbers such as 0,1,2 or 0-4") from error
    if not found:
        raise ConfigError(f"--seeds {text!r}: there is none among them")
    return list(dict.fromkeys(found))


def _refuse_failures(policies: str, failed: Mapping[str, str]) -> None:
    """A policy that was asked for by name and could not be trained is an error, after what could is shown."""
    for kind in policies.split(","):
        for name, reason in failed.items():
            if name.split()[0] == kind.strip():
                raise DataError(f"{name}: {reason}")
