"""`pointsman keys` and `pointsman teams`: virtual keys and teams of a running gateway, through its admin API."""

from typing import Any

import click

from gateway.admin_client import AdminClient
from gateway.command_output import print_json, print_table
from gateway.key_options import limited, reaching, read_overlap, spoken


def _given(caps: dict[str, Any], fields: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value not in (None, ())} | caps


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
    print_json(found) if as_json else print_table(found, ("id", "name", "owner", "team", "status", "expires_at"))


@keys.command("show")
@click.argument("key")
@reaching
def show_key(client: AdminClient, key: str) -> None:
    """All there is to know of a KEY, by its id or name."""
    print_json(client.get("keys", key))


@keys.command("update")
@click.argument("key")
@click.option("--name")
@click.option("--clear", multiple=True, help="a field that goes back to its default, as expires_at; repeatable")
@spoken
@reaching
@limited
def update_key(client: AdminClient, key: str, clear: tuple[str, ...], caps: dict[str, Any], **fields: Any) -> None:
    """Replaces what the options name of a KEY."""
    print_json(client.patch("keys", key, body=dict.fromkeys(clear) | _given(caps, fields)))


@keys.command("rotate")
@click.argument("key")
@click.option(
    "--overlap", default="1d", show_default=True, callback=read_overlap, help="how long the old one stays valid"
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
    print_json(client.get("audit", limit=limit)["data"])


@click.group()
def teams() -> None:
    """Teams of virtual keys; a team's limits and budgets count all its keys together."""


@teams.command("create")
@click.argument("name")
@reaching
@limited
def create_team(client: AdminClient, name: str, caps: dict[str, Any], **fields: Any) -> None:
    """Makes the team NAME."""
    print_json(client.post("teams", body={"name": name, **_given(caps, fields)}))


@teams.command("list")
@click.option("--json", "as_json", is_flag=True)
@reaching
def list_teams(client: AdminClient, as_json: bool) -> None:
    """All teams."""
    found = client.get("teams")["data"]
    print_json(found) if as_json else print_table(found, ("name", "owner", "created_at"))


@teams.command("show")
@click.argument("name")
@reaching
def show_team(client: AdminClient, name: str) -> None:
    """All there is to know of the team NAME."""
    print_json(client.get("teams", name))


@teams.command("update")
@click.argument("name")
@click.option("--clear", multiple=True, help="a field that goes back to its default, as budget; repeatable")
@reaching
@limited
def update_team(
    client: AdminClient, name: str, clear: tuple[str, ...], caps: dict[str, Any], **fields: Any
) -> None:
    """Replaces what the options name of the team NAME."""
    print_json(client.patch("teams", name, body=dict.fromkeys(clear) | _given(caps, fields)))


@teams.command("delete")
@click.argument("name")
@reaching
def delete_team(client: AdminClient, name: str) -> None:
    """Removes the team NAME, where no living key is in it."""
    client.delete("teams", name)
    click.echo(f"team {name} is gone")
