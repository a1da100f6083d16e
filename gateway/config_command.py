"""`pointsman config` and `pointsman experts`: the configuration of a running gateway, through its admin API."""

from pathlib import Path

import click

from gateway.admin_client import AdminClient
from gateway.command_output import print_json, print_table
from gateway.key_options import reaching
from router.errors import ConfigError


@click.group()
def config() -> None:
    """The configuration of a running gateway. The admin credential: POINTSMAN_ADMIN_KEY or --admin-file."""


@config.command("show")
@reaching
def show_config(client: AdminClient) -> None:
    """What is at work, since when, and what was refused; secrets masked."""
    print_json(client.get("config"))


@config.command("reload")
@reaching
def reload_config(client: AdminClient) -> None:
    """Has the gateway read its file now, as SIGHUP does."""
    found = client.post("config", "reload")
    done = "is at work" if found["changed"] else "was at work already"
    click.echo(f"configuration {found['number']} ({found['digest']}) {done}")


@config.command("check")
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
def check_config(file: Path) -> None:
    """Whether FILE could be put to work here: keys, prices, secrets, policy and guards. Asks nobody; see doctor."""
    from gateway.service import Service
    from router.config import load_settings

    Service(load_settings(file)).check()
    click.echo(f"{file} can be put to work")


@click.group()
def experts() -> None:
    """Experts of a running gateway, and of all that share its Redis."""


@experts.command("list")
@click.option("--json", "as_json", is_flag=True)
@reaching
def list_experts(client: AdminClient, as_json: bool) -> None:
    """Those at work, and where each is from; those that the gateway refused, and why."""
    found = client.get("experts")["data"]
    if as_json:
        print_json(found)
        return
    print_table(found, ("name", "from", "state", "changed_by", "changed_at"))
    for one in found:
        if one["reason"] is not None:
            click.echo(f"{one['name']}: {one['reason']}")


@experts.command("show")
@click.argument("name")
@reaching
def show_expert(client: AdminClient, name: str) -> None:
    """All there is to know of the expert NAME; secrets masked."""
    print_json(client.get("experts", name))


@experts.command("set")
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@reaching
def set_expert(client: AdminClient, file: Path) -> None:
    """Adds or replaces the expert of FILE: one entry of `experts:` in YAML or JSON."""
    from router.config import read_yaml

    given = read_yaml(file)
    if not isinstance(given.get("name"), str):
        raise ConfigError(f"{file}: expected one expert with a `name`")
    found = client.put("experts", given["name"], body=given)
    click.echo(f"expert {found['name']} is {found['state']}")


@experts.command("remove")
@click.argument("name")
@reaching
def remove_expert(client: AdminClient, name: str) -> None:
    """Takes back what was set of the expert NAME; the file's own is as the file says again."""
    client.delete("experts", name)
    click.echo(f"what was set of {name} is taken back; the file's own is at work, where it has one")
