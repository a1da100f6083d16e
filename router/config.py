"""The settings: one frozen object, read once. A bad or unknown key stops the start, with the key named.

Secrets are never values of the configuration: it names the environment variable or the file that holds them.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from router.config_base import Budgets, Hedge, Name, RateSettings, Seconds, Secret, Section, listed
from router.config_experts import ExpertSettings
from router.config_mistakes import told
from router.errors import ConfigError
from router.types import Preference

_LEDGER_URL = re.compile(r"embedded|(rediss?(\+(sentinel|cluster))?|unix)://.+")
LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})


class StickySettings(Section):
    """When a conversation stays with its expert (`router.stickiness`). One that the caller names always may."""

    conversations: bool = Field(
        False, description="keep those together, too, that no caller names, known by how they begin"
    )
    margin: float = Field(
        0.02, ge=0, le=1, description="quality by which another expert must be better to be taken"
    )
    cached_s: float = Field(300.0, ge=0, le=86_400, description="how long a provider keeps a prompt in its cache")
    ttl_s: int = Field(3600, ge=1, le=30 * 86_400, description="after so long without a request it begins anew")
    entries: int = Field(10_000, ge=1, le=10**7, description="conversations remembered in memory; Redis has all")


class PolicySettings(Section):
    """`artifact`: a folder that `pointsman train` wrote, or `default` for the one that ships."""

    artifact: str = "default"
    preference: Preference = "balanced"
    explore: float = Field(0.0, ge=0, le=1, description="share of decisions drawn at random, for learning")
    confidence: float = Field(0.9, ge=0.5, le=0.999, description="with which a quality floor is guaranteed")
    sticky: StickySettings = StickySettings()


class EncoderSettings(Section):
    """The query encoder. `model`: a sentence-transformers model by name or folder."""

    model: str = "all-MiniLM-L6-v2"
    cache_dir: Path | None = Field(None, description="exported graphs; default: the user's cache directory")
    cache_entries: int = Field(10_000, ge=0)
    max_batch: int = Field(16, ge=1, le=256)
    max_wait_ms: float = Field(1.0, ge=0, le=100)


def _ledger_url(url: str) -> str:
    if not _LEDGER_URL.fullmatch(url):
        raise ValueError(
            "expected `embedded`, redis://HOST:PORT[/DB] (rediss:// with TLS), unix://PATH, "
            "redis+sentinel://HOST:PORT[,HOST:PORT...]/SERVICE or redis+cluster://HOST:PORT[,HOST:PORT...]"
        )
    return url


class LedgerSettings(Section):
    """`url`: `embedded` (a private redis-server, started and stopped with the gateway) or `redis://...`;
    `redis+sentinel://` and `redis+cluster://` as in `router.ledger.located`.
    """

    url: Annotated[str, AfterValidator(_ledger_url)] = "embedded"
    password: Secret | None = None
    sentinel_user: str | None = Field(None, min_length=1, description="of the Sentinels, where they have users")
    sentinel_password: Secret | None = Field(None, description="of the Sentinels; `password` is the server's own")
    data_dir: Path | None = Field(None, description="of the embedded server; default: the user's data directory")
    spool_dir: Path | None = Field(
        None, description="what is owed while Redis is away; default: the data directory"
    )
    half_life_s: Seconds = 300.0
    flush_ms: float = Field(5.0, ge=1, le=1000)
    accounts_days: int = Field(400, ge=1, le=3660, description="how long it is kept what each key has spent a day")
    wait_ms: float = Field(5.0, gt=0, le=1000, description="for limits and budgets; then from memory")

    @model_validator(mode="after")
    def _asks_sentinels(self) -> "LedgerSettings":
        if self.sentinel_user is not None and self.sentinel_password is None:
            raise ValueError("sentinel_user: give `sentinel_password` too")
        if self.sentinel_password is not None and "+sentinel://" not in self.url:
            raise ValueError("sentinel_password: the url names no Sentinels (redis+sentinel://HOST:PORT/SERVICE)")
        return self


class ResponseSettings(Section):
    """What the Responses API stores in Redis, prompts and answers, where callers do not say `store: false`."""

    store: bool = True
    ttl_s: int = Field(86_400, ge=1, le=31_536_000, description="from the last turn of a conversation")
    item_bytes: int = Field(1024 * 1024, ge=1024, description="a larger one, with its input, is not stored")


class DecisionSettings(Section):
    """The decision log; without this section there is none."""

    folder: str = Field(min_length=1, description="of the Parquet files: a local folder or any fsspec URL")
    prompt: Literal["none", "embedding", "hash", "full"] = Field("embedding", description="what is kept of it")
    rotate_rows: int = Field(10_000, ge=1, le=1_000_000, description="rows of one file at most")
    rotate_s: Seconds = Field(300.0, description="after which a smaller file is written")
    known_s: float = Field(604_800.0, ge=1, le=31_536_000, description="in which feedback to one is taken")
    stream_rows: int = Field(100_000, ge=1, le=10**8, description="that may wait in Redis; later ones are dropped")


class SemanticSettings(Section):
    """Answers given again to questions that are nearly the same; where a routed request is worth no more."""

    calibration: Path | None = Field(None, description="what `pointsman calibrate-cache` wrote")
    threshold: float | None = Field(None, gt=0, le=1, description="least cosine, in its place: nothing is proven")
    wrong_share: float = Field(0.02, gt=0, le=0.5, description="of the hits, at most")
    entries: int = Field(100, ge=1, le=10_000, description="questions compared, of those that may be: the newest")

    @model_validator(mode="after")
    def _one_threshold(self) -> "SemanticSettings":
        if (self.calibration is None) == (self.threshold is None):
            raise ValueError("give exactly one of `calibration` (a file) or `threshold` (a cosine)")
        return self


class CacheSettings(Section):
    """Answers kept in the ledger's Redis and given again to the same request; there only where it is configured."""

    ttl_s: Seconds = 3600.0
    max_entry_bytes: int = Field(256 * 1024, ge=1024, le=16 * 1024 * 1024)
    scope: Literal["key", "gateway"] = Field("key", description="who is given another's answer: nobody, or all")
    sampled: bool = Field(False, description="also answers to requests with a temperature above 0 or n above 1")
    semantic: SemanticSettings | None = None


class EmbeddingSettings(Section):
    """How `auto` chooses among the embedding experts of one `space`: by pilots, or the cheapest."""

    pilots: Path | None = Field(None, description="what `pointsman pilots` wrote")


class KeySettings(Secret):
    """One API key that callers may use; `name` is what logs and metrics call it."""

    name: Name
    limits: RateSettings = RateSettings()
    budget: Budgets = ()


class AdminSettings(Secret):
    """A credential for the admin API; `name` is what its audit log calls whoever uses it."""

    name: Name = "admin"


class AuthSettings(Section):
    """With `secret`, under which they are hashed, there are virtual keys; with `admin` they can be managed."""

    keys: tuple[KeySettings, ...] = ()
    secret: Secret | None = None
    admin: Annotated[tuple[AdminSettings, ...], BeforeValidator(listed)] = ()
    allow_anonymous: bool = False


class LimitSettings(RateSettings):
    """Of the whole gateway: the rate limits count all keys together."""

    body_bytes: int = Field(8 * 1024 * 1024, ge=1024)
    timeout_s: Seconds = Field(600.0, description="all attempts of one request together")
    attempts: int = Field(3, ge=1, le=10, description="experts asked for one request")
    retries: int = Field(1, ge=0, le=5, description="times that all are asked again after a pause")
    hedge: Hedge | None = Field(None, description="share of answers that begin before a second attempt; off")
    drain_s: Seconds = Field(30.0, description="for what is under way when the gateway is told to stop")
    connections: int = Field(1024, ge=1, description="to one upstream")


class GuardSettings(BaseModel):
    """One guard; all other keys are its own. `streams`: what becomes of them where it looks at whole answers: they
    are held until it has, are refused, or pass unseen.
    """

    model_config = ConfigDict(frozen=True, extra="allow")

    kind: Name
    streams: Literal["hold", "refuse", "pass"] = "hold"

    def arguments(self) -> dict[str, Any]:
        return dict(self.model_extra or {})


class Settings(Section):
    """The whole configuration of a gateway."""

    host: str = "127.0.0.1"
    port: int = Field(8000, ge=0, le=65_535)
    zone: str | None = Field(None, min_length=1, max_length=100, description="endpoints in it go first")
    experts: tuple[ExpertSettings, ...]
    policy: PolicySettings = PolicySettings()
    encoder: EncoderSettings = EncoderSettings()
    ledger: LedgerSettings = LedgerSettings()
    decisions: DecisionSettings | None = None
    cache: CacheSettings | None = None
    embeddings: EmbeddingSettings = EmbeddingSettings()
    auth: AuthSettings = AuthSettings()
    limits: LimitSettings = LimitSettings()
    budget: Budgets = ()
    responses: ResponseSettings = ResponseSettings()
    guards: tuple[GuardSettings, ...] = ()
    watch_s: float | None = Field(1.0, ge=0.05, le=3600, description="how often the file is looked at; null: never")

    @model_validator(mode="after")
    def _safe_and_distinct(self) -> "Settings":
        if not self.experts:
            raise ValueError("experts: the pool is empty; give at least one expert")
        names = [expert.name for expert in self.experts]
        doubles = sorted({name for name in names if names.count(name) > 1})
        if doubles:
            raise ValueError(f"experts: the name {doubles[0]!r} is given twice")
        spaced = sorted(one.name for one in self.experts if one.space is not None and one.serves != "embeddings")
        if spaced:
            raise ValueError(f"experts: {spaced[0]!r} has a `space` and serves no embeddings")
        reserved = sorted(name for name in names if name == "auto" or name.startswith("auto:"))
        if reserved:
            raise ValueError(f"experts: {reserved[0]!r} is a routed name, not an expert's")
        kept: dict[str, KeySettings] = {}
        for key in self.auth.keys:
            other = kept.setdefault(key.name, key)
            if (key.limits, key.budget) != (other.limits, other.budget):
                raise ValueError(f"auth.keys: two keys are called {key.name!r}, with different limits or budgets")
        open_door = not self.auth.keys and self.auth.secret is None
        if self.host not in LOOPBACK and open_door and not self.auth.allow_anonymous:
            raise ValueError(
                f"auth.keys: host {self.host!r} can be reached from other machines and there is no API key; "
                "add auth.keys or auth.secret, bind to 127.0.0.1, or set auth.allow_anonymous: true"
            )
        return self


def secrets_of(section: BaseModel) -> Iterator[Secret]:
    """All places of secrets that a part of the settings names."""
    if isinstance(section, Secret):
        yield section
    for _, value in section:
        for one in value if isinstance(value, tuple) else (value,):
            if isinstance(one, BaseModel):
                yield from secrets_of(one)


def load_settings(path: Path, **overrides: Any) -> Settings:
    """Reads a YAML file. `overrides` replace top-level keys (a command line's --port). Raises `ConfigError`."""
    raw = read_yaml(path)
    return parse_settings(raw | {k: v for k, v in overrides.items() if v is not None}, str(path))


def read_yaml(path: Path) -> dict[str, Any]:
    """A file's mapping. Raises `ConfigError`, which quotes nothing of it."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the configuration {path}: {error}") from error
    try:
        raw = yaml.safe_load(text)
    except yaml.YAMLError as error:
        # its own message quotes the line, which may hold a secret
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}, column {mark.column + 1}" if mark else "somewhere"
        raise ConfigError(f"{path} is not YAML: {getattr(error, 'problem', None) or 'odd'} at {where}") from None
    except RecursionError:
        raise ConfigError(f"{path} nests too deeply") from None
    if not isinstance(raw, dict):
        found = {type(None): "nothing", list: "a list"}.get(type(raw), "a single value")
        raise ConfigError(f"{path}: expected keys such as `experts:`, found {found}")
    return raw


def parse_settings(raw: dict[str, Any], source: str = "configuration") -> Settings:
    """Validates a mapping. Raises `ConfigError` with one line per wrong key."""
    try:
        return Settings.model_validate(raw)
    except ValidationError as error:
        raise ConfigError("\n".join(f"{source}: {line}" for line in told(error, Settings, raw))) from error


def parse_expert(raw: dict[str, Any]) -> ExpertSettings:
    """One entry of `experts`. Raises `ConfigError` with one line per wrong key, or what is wrong with the whole."""
    try:
        return _OneExpert.model_validate({"experts": (raw,)}).experts[0]
    except ValidationError as error:
        lines = told(error, _OneExpert, {})
        raise ConfigError(
            "\n".join(line.removeprefix("experts.0.").removeprefix("experts.0: ") for line in lines)
        ) from error


class _OneExpert(Section):
    experts: tuple[ExpertSettings]
