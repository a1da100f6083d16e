"""`pointsman keys` and `pointsman teams`: virtual keys and teams of a running gateway, through its admin API."""

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import wraps
from pathlib import Path
from typing import Any

import click

from gateway.admin_client import AdminClient

_AGE = re.compile(r"(\d{1,5})([mhd])")
_BUDGET = re.compile(r"(\d+(?:\.\d+)?)/(?:(day|week|month)|(\d{1,4})h)")
_SECONDS = {"m": 60, "h": 3600, "d": 86_400}

Command = Callable[..., None]


def _seconds(text: str) -> float | None:
    """90m, 12h or 30d."""
    found = _AGE.fullmatch(text)
    return int(found[1]) * _SECONDS[found[2]] if found else None


def _expiry(_: click.Context, __: click.Parameter, text: str | None) -> str | None:
    if text is None:
        return None
    if (seconds := _seconds(text)) is not None:
        return (datetime.now(UTC) + timedelta(seconds=seconds)).isoformat()
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise click.BadParameter(f"expected 90m, 12h, 30d or 2030-01-31T12:00:00Z, got {text!r}") from None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).isoformat()


def _overlap(_: click.Context, __: click.Parameter, text: str) -> float:
    if text == "0":
        return 0.0
    if (seconds := _seconds(text)) is None:
        raise click.BadParameter(f"expected 0, 90m, 12h or 30d, got {text!r}")
    return seconds


def _budgets(_: click.Context, __: click.Parameter, texts: tuple[str, ...]) -> list[dict[str, Any]]:
    budgets: list[dict[str, Any]] = []
    for text in texts:
        found = _BUDGET.fullmatch(text)
        if found is None:
            raise click.BadParameter(f"expected USD/day, USD/week, USD/month or USD/24h, got {text!r}")
        usd, per, hours = found.groups()
        budgets.append({"usd": float(usd), **({"per": per} if per else {"rolling_hours": int(hours)})})
    return budgets


def _client(url: str, admin_file: Path | None, admin_key: str | None) -> AdminClient:
    if admin_file is not None:
        admin_key = admin_file.read_text(encoding="utf-8").strip()
    if not admin_key:
        raise click.UsageError("no admin credential: set POINTSMAN_ADMIN_KEY or give --admin-file")
    return AdminClient(url, admin_key)


def reaching(command: Command) -> Command:
    """The options that say which gateway, and with which credential."""

    @wraps(command)  # and the options that it has
    def run(url: str, admin_file: Path | None, admin_key: str | None, **rest: Any) -> None:
        command(client=_client(url, admin_file, admin_key), **rest)

    for option in (
        click.option("--url", envvar="POINTSMAN_URL", default="http://127.0.0.1:8000", show_default=True),
        click.option("--admin-file", type=click.Path(path_type=Path, exists=True, dir_okay=False), help="holds it"),
        # a secret is no option's value: it would show in the list of processes
        click.option("--admin-key", envvar="POINTSMAN_ADMIN_KEY", hidden=True, expose_value=True),
    ):
        option(run)
    return run


def limited(command: Command) -> Command:
    """The options of what a key or a team may take."""

    @wraps(command)
    def run(
        requests_per_minute: int | None,
        tokens_per_minute: int | None,
        concurrency: int | None,
        budget: list[dict[str, Any]],
        **rest: Any,
    ) -> None:
        limits = {
            "requests_per_minute": requests_per_minute,
            "tokens_per_minute": tokens_per_minute,
            "concurrency": concurrency,
        }
        limits = {name: value for name, value in limits.items() if value is not None}
        command(caps={**({"limits": limits} if limits else {}), **({"budget": budget} if budget else {})}, **rest)

    for option in (
        click.option("--owner"),
        click.option("--requests-per-minute", type=click.IntRange(min=1)),
        click.option("--tokens-per-minute", type=click.IntRange(min=1)),
        click.option("--concurrency", type=click.IntRange(min=1)),
        click.option("--budget", multiple=True, callback=_budgets, help="as 20/day, 100/month or 5/1h; repeatable"),
    ):
        option(run)
    return run


def spoken(command: Command) -> Command:
    """The options of what a key says beside its name."""
    for option in (
        click.option("--team"),
        click.option("--expires", "expires_at", callback=_expiry, help="as 30d, or a date in ISO 8601"),
        click.option("--model", "models", multiple=True, help="the only ones it may use; repeatable"),
        click.option("--policy", "policies", multiple=True, help="the only ones that may route for it; repeatable"),
        click.option(
            "--preference", "preferences", multiple=True, type=click.Choice(["cheap", "balanced", "best"])
        ),
        click.option("--tag", "tags", multiple=True, help="repeatable"),
    ):
        option(command)
    return command


def _given(caps: dict[str, Any], fields: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value not in (None, ())} | caps


def _print(data: Any) -> None:
    import json

    click.echo(json.dumps(data, indent=2))


def _table(rows: list[dict[str, Any]], columns: tuple[str, ...]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None)
    for column in columns:
        table.add_column(column)
    for row in rows:
        table.add_row(*(Text(str(row[column] or "")) for column in columns))
    Console().print(table)


def _announce(key: dict[str, Any]) -> None:
    """The secret alone on standard output, so that it can go straight to where secrets are kept."""
    click.echo(f"{key['id']} ({key['name']}): the key is shown this once", err=True)
    click.echo(key["key"])


@click.group()
def keys() -> None:
    """Virtual keys of a running gateway. The admin credential: POINTSMAN_ADMIN_KEY or --admin-file."""


@keys.command("create")
@click.argument("name")
@spoken
@reaching
@limited
def create_key(client: AdminClient, name: str, caps: dict[str, Any], **fields: Any) -> None:
    """Makes the key NAME and prints it, this once."""
    _announce(client.post("keys", body={"name": name, **_given(caps, fields)}))


@keys.command("list")
@click.option("--team", help="those of one team")
@click.option("--json", "as_json", is_flag=True)
@reaching
def list_keys(client: AdminClient, team: str | None, as_json: bool) -> None:
    """All keys, newest first."""
    found = client.get("keys", team=team)["data"]
    _print(found) if as_json else _table(found, ("id", "name", "owner", "team", "status", "expires_at"))


@keys.command("show")
@click.argument("key")
@reaching
def show_key(client: AdminClient, key: str) -> None:
    """All there is to know of a KEY, by its id or name."""
    _print(client.get("keys", key))


@keys.command("update")
@click.argument("key")
@click.option("--name")
@click.option("--clear", multiple=True, help="a field that goes back to its default, as expires_at; repeatable")
@spoken
@reaching
@limited
def update_key(client: AdminClient, key: str, clear: tuple[str, ...], caps: dict[str, Any], **fields: Any) -> None:
    """Replaces what the options name of a KEY."""
    _print(client.patch("keys", key, body=dict.fromkeys(clear) | _given(caps, fields)))


@keys.command("rotate")
@click.argument("key")
@click.option(
    "--overlap", default="1d", show_default=True, callback=_overlap, help="how long the old one stays valid"
)
@reaching
def rotate_key(client: AdminClient, key: str, overlap: float) -> None:
    """Gives a KEY a new secret and prints it, this once."""
    _announce(client.post("keys", key, "rotate", body={"overlap_s": overlap}))


@keys.command("revoke")
@click.argument("key")
@reaching
def revoke_key(client: AdminClient, key: str) -> None:
    """Ends a KEY for good."""
    found = client.post("keys", key, "revoke")
    click.echo(f"{found['id']} ({found['name']}) is revoked")


@keys.command("audit")
@click.option("--limit", type=click.IntRange(1, 1000), default=100, show_default=True)
@reaching
def audit(client: AdminClient, limit: int) -> None:
    """Who changed what and when, newest first."""
    _print(client.get("audit", limit=limit)["data"])


@click.group()
def teams() -> None:
    """Teams of virtual keys; a team's limits and budgets count all its keys together."""


@teams.command("create")
@click.argument("name")
@reaching
@limited
def create_team(client: AdminClient, name: str, caps: dict[str, Any], **fields: Any) -> None:
    """Makes the team NAME."""
    _print(client.post("teams", body={"name": name, **_given(caps, fields)}))


@teams.command("list")
@click.option("--json", "as_json", is_flag=True)
@reaching
def list_teams(client: AdminClient, as_json: bool) -> None:
    """All teams."""
    found = client.get("teams")["data"]
    _print(found) if as_json else _table(found, ("name", "owner", "created_at"))


@teams.command("show")
@click.argument("name")
@reaching
def show_team(client: AdminClient, name: str) -> None:
    """All there is to know of the team NAME."""
    _print(client.get("teams", name))


@teams.command("update")
@click.argument("name")
@click.option("--clear", multiple=True, help="a field that goes back to its default, as budget; repeatable")
@reaching
@limited
def update_team(
    client: AdminClient, name: str, clear: tuple[str, ...], caps: dict[str, Any], **fields: Any
) -> None:
    """Replaces what the options name of the team NAME."""
    _print(client.patch("teams", name, body=dict.fromkeys(clear) | _given(caps, fields)))


@teams.command("delete")
@click.argument("name")
@reaching
def delete_team(client: AdminClient, name: str) -> None:
    """Removes the team NAME, where no living key is in it."""
    client.delete("teams", name)
    click.echo(f"team {name} is gone")
