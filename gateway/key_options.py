"""The options of `pointsman keys` and `pointsman teams`: which gateway, and what a key or a team says."""

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


def read_overlap(_: click.Context, __: click.Parameter, text: str) -> float:
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
