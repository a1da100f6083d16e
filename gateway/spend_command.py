"""`pointsman spend`: what a running gateway and those that share its Redis have spent, through the admin API."""

from typing import Any

import click

from gateway.admin_client import AdminClient
from gateway.key_options import reaching

#: Shown in this order; of the rarer ones those that are anywhere above zero.
COLUMNS = {
    "calls": "calls",
    "errors": "errors",
    "input_tokens": "input",
    "cached_tokens": "cached",
    "cache_write_tokens": "written",
    "audio_input_tokens": "audio in",
    "image_input_tokens": "image in",
    "output_tokens": "output",
    "reasoning_tokens": "reasoning",
    "audio_output_tokens": "audio out",
    "image_output_tokens": "image out",
}
ALWAYS = ("calls", "input_tokens", "output_tokens")


@click.command()
@click.option("--by", default="day", show_default=True, help="any of day, expert, key, team and tag, as key,day")
@click.option("--from", "first", metavar="DAY", help="the first UTC day, as 2026-01-31; default: 30 days")
@click.option("--to", "last", metavar="DAY", help="the last one; default: today")
@click.option("--json", "as_json", is_flag=True)
@reaching
def spend(client: AdminClient, by: str, first: str | None, last: str | None, as_json: bool) -> None:
    """What was spent, by whom, on what. The admin credential: POINTSMAN_ADMIN_KEY or --admin-file.

    `calls` are calls of experts, those that failed too. A key with several tags counts for each of them. What was
    cut off before its expert said what it took is estimated.
    """
    found = client.get("spend", **{"by": by, "from": first, "to": last})
    if as_json:
        import json

        click.echo(json.dumps(found, indent=2))
    else:
        _print(found)


def _print(found: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    by, rows, total = found["by"], found["data"], found["total"]
    amounts = [name for name in COLUMNS if name in ALWAYS or total[name]]
    table = Table(box=None, title=f"{found['from']} to {found['to']}, UTC days", title_justify="left")
    for name in by:
        table.add_column(name, overflow="fold")
    for name in amounts:
        table.add_column(COLUMNS[name], justify="right")
    table.add_column("USD", justify="right", no_wrap=True)
    guessed = ["estimated_nano"] if total["estimated_nano"] else []
    for _ in guessed:
        table.add_column("of it estimated", justify="right", no_wrap=True)
    for row in rows:
        said = [row["key_name"] if name == "key" else row[name] for name in by]
        table.add_row(*(Text(text or "-") for text in said), *_figures(row, amounts, guessed))
    table.add_section()
    table.add_row(*(["all"] + [""] * (len(by) - 1)), *_figures(total, amounts, guessed))
    Console().print(table)


def _figures(row: dict[str, Any], amounts: list[str], guessed: list[str]) -> list[str]:
    return [*(f"{row[name]:,}" for name in amounts), *(_usd(row[name]) for name in ("cost_nano", *guessed))]


def _usd(nano: int) -> str:
    return "{:,}.{:09d}".format(*divmod(nano, 1_000_000_000))
