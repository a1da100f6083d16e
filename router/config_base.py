"""What the settings are made of: sections, secrets, and what limits a key, an expert or the gateway."""

import os
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from router.errors import ConfigError

NAME_PATTERN = r"^[\w.\-/@:+]+$"
Name = Annotated[str, Field(min_length=1, max_length=200, pattern=NAME_PATTERN)]
Usd = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Hedge = Annotated[float, Field(ge=0.5, lt=1, allow_inf_nan=False)]
Seconds = Annotated[float, Field(gt=0, le=86_400, allow_inf_nan=False)]


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Secret(Section):
    """Where a secret is: an environment variable or a file (its content, stripped)."""

    env: str | None = None
    file: Path | None = None

    @model_validator(mode="after")
    def _one_place(self) -> "Secret":
        if (self.env is None) == (self.file is None):
            raise ValueError("give exactly one of `env` (a variable's name) or `file` (a path)")
        return self

    def read(self, what: str) -> str:
        """The secret's text. `what` names the key in the error when it cannot be had."""
        if self.env is not None:
            value = os.environ.get(self.env, "").strip()
            if not value:
                raise ConfigError(f"{what}: the environment variable {self.env} is not set")
            return value
        assert self.file is not None
        try:
            value = self.file.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{what}: cannot read the file {self.file}: {error}") from error
        if not value:
            raise ConfigError(f"{what}: the file {self.file} is empty")
        return value


class RateSettings(Section):
    """Rate limits of a key, an expert or the gateway, over all replicas; None: no limit."""

    requests_per_minute: int | None = Field(None, ge=1, le=10**9)
    tokens_per_minute: int | None = Field(None, ge=1, le=10**12, description="input and output together")
    concurrency: int | None = Field(None, ge=1, le=10**6, description="requests at once")


class BudgetSettings(Section):
    """At most `usd` per UTC calendar day, week (from Monday) or month, or in the last `rolling_hours`."""

    usd: float = Field(gt=0, le=1e9, allow_inf_nan=False)
    per: Literal["day", "week", "month"] | None = None
    rolling_hours: int | None = Field(None, ge=1, le=8784)
    warn_at: float = Field(0.8, ge=0, le=1, description="share of `usd` from which answers carry a warning")
    on_exhausted: Literal["refuse", "cheapest"] = "refuse"
    pace: bool = Field(False, description="steer the price of quality so that the spend lands on `usd`")

    @model_validator(mode="after")
    def _one_period(self) -> "BudgetSettings":
        if (self.per is None) == (self.rolling_hours is None):
            raise ValueError("give exactly one of `per` (day, week or month) or `rolling_hours`")
        if self.pace and self.per is None:
            raise ValueError("pace: needs a period that ends: give `per` (day, week or month), not `rolling_hours`")
        return self


def listed(given: Any) -> Any:
    """One in place of a list of them."""
    return [given] if isinstance(given, dict) else given


def _distinct(budgets: tuple[BudgetSettings, ...]) -> tuple[BudgetSettings, ...]:
    periods = [budget.per or f"{budget.rolling_hours} hours" for budget in budgets]
    for period in periods:
        if periods.count(period) > 1:
            raise ValueError(f"two budgets per {period}; keep one")
    return budgets


#: One budget, or a list of several that all hold.
Budgets = Annotated[tuple[BudgetSettings, ...], BeforeValidator(listed), AfterValidator(_distinct)]
