"""The command `pointsman`: finds its subcommands among the installed entry points and runs one.

Knows none of them: a subcommand's module is imported when it runs, or when the help lists it.
"""

import re
import sys
from collections.abc import Sequence
from importlib import metadata

import click

from router.errors import PointsmanError

GROUP = "pointsman.commands"
DISTRIBUTION = "pointsman"
WRONG, INTERRUPTED = 2, 130


class Commands(click.Group):
    """Subcommands from entry points, imported on demand."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(metadata.entry_points(group=GROUP).names)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        found = metadata.entry_points(group=GROUP, name=cmd_name)
        if not found:
            return None
        (entry,) = found
        try:
            command = entry.load()
        except ModuleNotFoundError as error:
            return _unavailable(cmd_name, error)
        assert isinstance(command, click.Command)
        return command


def _unavailable(name: str, error: ModuleNotFoundError) -> click.Command:
    """Stands in for a command that cannot be imported, so that the help can list the others."""
    advice = missing_module(error)

    def refuse() -> None:
        raise PointsmanError(advice)

    return click.Command(name, callback=refuse, help=advice, short_help=f"(not installed: {error.name})")


def missing_module(error: ModuleNotFoundError) -> str:
    """What to install for a module that is not there."""
    module = (error.name or "").partition(".")[0]
    for requirement in metadata.requires(DISTRIBUTION) or ():
        package = re.match(r"[\w.-]+", requirement)
        extra = re.search(r"extra == ['\"]([\w-]+)['\"]", requirement)
        if package and extra and package.group().replace("-", "_").lower() == module.lower():
            return f"this needs {package.group()}: pip install '{DISTRIBUTION}[{extra.group(1)}]'"
    return f"the module {module!r} is not installed; reinstall {DISTRIBUTION}"


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name=DISTRIBUTION, prog_name="pointsman")
def pointsman() -> None:
    """Sends each query to the expert model that answers it well for the least money."""


def main(args: Sequence[str] | None = None) -> None:
    """Runs a subcommand and exits: 2 with one line for a mistake of the caller's, 130 after Ctrl-C."""
    try:
        code = pointsman.main(
            args=None if args is None else list(args), prog_name="pointsman", standalone_mode=False
        )
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except click.Abort:
        sys.exit(INTERRUPTED)
    except PointsmanError as error:
        _complain(str(error))
    except ModuleNotFoundError as error:
        _complain(missing_module(error))
    # what a subcommand returns is no exit code, unless it is one that click gives back for `ctx.exit`
    sys.exit(code if isinstance(code, int) else 0)


def _complain(message: str) -> None:
    click.echo(f"pointsman: {message}", err=True)
    sys.exit(WRONG)
