"""What an expert costs and can: from its settings, else from litellm's price map, else a clear error.

The map is read as the JSON file that the litellm package carries; litellm itself is not imported (that takes
seconds). It is asked for what the settings leave open: price, context, capabilities.

How a model is looked up: `model`, then `name`, as the map spells it or as `provider/model` with the entry's own
provider. Failing that, all entries that end in `/<model>`, if they agree on the price of input and output; what
they promise is then what every one of them promises, and the other prices are those that they agree on. An entry
whose price is zero counts as unpriced, since the map has zeros for models that are not free: a model that costs
nothing needs `price: {input: 0, output: 0}` in the settings. So does a zero for a kind of token, but for cached
ones. Surcharges that the map has beside the base price
(very long prompts, batch, priority) are left out, and so is what it prices by the second, the image or the
request: give that in the settings.
"""

import importlib.util
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import orjson

from router.config_experts import ExpertBase, SimulatedSettings
from router.errors import ConfigError
from router.types import ExpertSpec, Price

MAP_FILE = "model_prices_and_context_window_backup.json"
CONTEXT_TOKENS = 128_000  # where nothing is known
CAPABILITIES = frozenset({"tools", "json"})  # where nothing is known
SIMULATED_CAPABILITIES = frozenset({"tools", "json", "vision"})

_FLAGS = {
    "tools": "supports_function_calling",
    "vision": "supports_vision",
    "json": "supports_response_schema",
    "audio": "supports_audio_input",
}
#: The fields of a `Price` by the map's names for them, there in USD a token.
_RATES = {
    "input": "input_cost_per_token",
    "output": "output_cost_per_token",
    "cached_input": "cache_read_input_token_cost",
    "cache_write": "cache_creation_input_token_cost",
    "cache_write_1h": "cache_creation_input_token_cost_above_1hr",
    "audio_input": "input_cost_per_audio_token",
    "image_input": "input_cost_per_image_token",
    "audio_output": "output_cost_per_audio_token",
    "image_output": "output_cost_per_image_token",
    "reasoning": "output_cost_per_reasoning_token",
}
_MODES = {"chat": ("chat", "responses", "completion"), "embeddings": ("embedding",), "rerank": ("rerank",)}

Entry = Mapping[str, Any]


class PriceMap:
    """litellm's table of models. Nothing is read before the first question; build one and pass it on.

    `path` is the JSON file; None: there is no map, every question is answered with nothing.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self._entries: dict[str, Entry] | None = None
        self._by_suffix: dict[str, list[str]] = {}

    @classmethod
    def installed(cls) -> "PriceMap":
        """The map of the installed litellm; an empty one where it is not installed."""
        found = importlib.util.find_spec("litellm")
        places = found.submodule_search_locations if found is not None else None
        path = Path(next(iter(places))) / MAP_FILE if places else None
        return cls(path if path is not None and path.is_file() else None)

    def entries(self) -> Mapping[str, Entry]:
        """All of it, by the map's own names. Raises `ConfigError` where the file is not the map."""
        if self._entries is None:
            self._entries = self._read()
            for key in self._entries:
                if "/" in key:
                    self._by_suffix.setdefault(key.rpartition("/")[2].lower(), []).append(key)
        return self._entries

    def _read(self) -> dict[str, Entry]:
        if self.path is None:
            return {}
        try:
            raw = orjson.loads(self.path.read_bytes())
        except (OSError, orjson.JSONDecodeError) as error:
            raise ConfigError(f"cannot read litellm's price map {self.path}: {error}") from error
        if not isinstance(raw, dict):
            raise ConfigError(f"{self.path}: expected a mapping of models, found {type(raw).__name__}")
        return {key: entry for key, entry in raw.items() if isinstance(entry, dict)}

    def find(self, names: Iterable[str], serves: str) -> dict[str, Entry]:
        """The entries that `names` mean, by their key in the map; the first name that means any decides."""
        entries = self.entries()
        for name in names:
            keys = self._exact(name, serves) or [
                key
                for key in self._by_suffix.get(name.rpartition("/")[2].lower(), ())
                if key.lower().endswith(f"/{name.lower()}") and _fits(entries[key], serves)
            ]
            if keys:
                return {key: entries[key] for key in keys}
        return {}

    def _exact(self, name: str, serves: str) -> list[str]:
        entries = self.entries()
        provider, slash, model = name.partition("/")
        for key in (name, model) if slash else (name,):
            entry = entries.get(key)
            if entry is None or not _fits(entry, serves):
                continue
            if key == name or entry.get("litellm_provider") == provider:
                return [key]
        return []


def find_price(settings: ExpertBase, prices: PriceMap) -> Price:
    """The expert's price. Raises `ConfigError`, saying what to write, where none is known or several are."""
    if settings.price is not None:
        given = settings.price.model_dump()
        return Price(
            **{name: price or 0.0 if name in ("input", "output") else price for name, price in given.items()}
        )
    priced = {
        key: price
        for key, entry in prices.find(_names(settings), settings.serves).items()
        if (price := _price(entry, settings.serves)) is not None
    }
    if not priced:
        raise ConfigError(_unpriced(settings, prices))
    if len({(price.input, price.output) for price in priced.values()}) > 1:
        choices = ", ".join(f"{key} ({p.input:g} in, {p.output:g} out)" for key, p in sorted(priced.items()))
        raise ConfigError(
            f"expert {settings.name!r}: litellm's price map has several prices for "
            f"{_asked(settings)}: {choices}; give `price` (with `kind: remote`, `model` may be one of these names)"
        )
    agreed: dict[str, Any] = {}
    for name in _RATES:
        found = {getattr(price, name) for price in priced.values()}
        agreed[name] = found.pop() if len(found) == 1 else None
    return Price(**agreed)


def describe(settings: ExpertBase, prices: PriceMap) -> ExpertSpec:
    """All that the router knows of an expert before any request. Raises `ConfigError` as `find_price` does."""
    context, capabilities = settings.context_tokens, frozenset[str](settings.capabilities or ())
    if context is None or settings.capabilities is None:
        found = tuple(prices.find(_names(settings), settings.serves).values())
        context = context if context is not None else _context(found)
        if settings.capabilities is None:
            known = SIMULATED_CAPABILITIES if isinstance(settings, SimulatedSettings) else CAPABILITIES
            capabilities = _capabilities(found) if found else known
    return ExpertSpec(
        name=settings.name,
        price=find_price(settings, prices),
        context_tokens=context,
        capabilities=capabilities,
        like=settings.like,
        tier=settings.tier,
        ttft_s=settings.ttft_s,
        token_s=settings.token_s,
        serves=settings.serves,
        enabled=settings.enabled,
        local=settings.local,
    )


def _names(settings: ExpertBase) -> tuple[str, ...]:
    return (settings.name,) if settings.model in (None, settings.name) else (settings.model or "", settings.name)


def _asked(settings: ExpertBase) -> str:
    return " or ".join(repr(name) for name in _names(settings))


def _fits(entry: Entry, serves: str) -> bool:
    return entry.get("mode") in _MODES[serves]


def _number(entry: Entry, key: str) -> float | None:
    value = entry.get(key)
    # some entries carry a sentence where others carry a number
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _price(entry: Entry, serves: str) -> Price | None:
    """Per million tokens; None for an entry that is not priced by the token."""
    fresh, output = _number(entry, "input_cost_per_token"), _number(entry, "output_cost_per_token")
    if output is None and serves in ("embeddings", "rerank"):
        output = 0.0
    if fresh is None or output is None or (fresh == 0 and output == 0):
        return None
    rates = {name: _number(entry, key) for name, key in _RATES.items()} | {"input": fresh, "output": output}
    # rounding takes away what 0.00000015 * 1e6 adds in binary
    million: dict[str, Any] = {
        name: round(rate * 1e6, 9)
        for name, rate in rates.items()
        if rate or (rate is not None and name in ("input", "output", "cached_input"))
    }
    return Price(**million)


def _context(found: tuple[Entry, ...]) -> int:
    limits = [
        limit
        for entry in found
        if (limit := _number(entry, "max_input_tokens") or _number(entry, "max_tokens")) is not None
    ]
    return int(min(limits)) if limits and min(limits) >= 1 else CONTEXT_TOKENS


def _capabilities(found: tuple[Entry, ...]) -> frozenset[str]:
    return frozenset(name for name, flag in _FLAGS.items() if all(entry.get(flag) is True for entry in found))


def _unpriced(settings: ExpertBase, prices: PriceMap) -> str:
    if prices.path is None:
        why = "and litellm's price map is not installed (`pip install 'pointsman[remote]'` brings it)"
    else:
        why = f"and litellm's price map has no price for {_asked(settings)}"
    return (
        f"expert {settings.name!r}: no price is configured, {why}; give it in USD per million tokens, "
        "`price: {input: 0.15, output: 0.6}`, or `price: {input: 0, output: 0}` for one that costs nothing"
    )
