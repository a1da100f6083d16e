from pathlib import Path
from typing import Any

import orjson
import pytest

from router.config_experts import EndpointSettings, PriceSettings, RemoteSettings, SimulatedSettings
from router.errors import ConfigError
from router.experts.prices import CAPABILITIES, CONTEXT_TOKENS, PriceMap, describe, find_price
from router.types import Price


def entry(input_price: float | None, output_price: float | None, **rest: Any) -> dict[str, Any]:
    return {
        "litellm_provider": "openai",
        "mode": "chat",
        "input_cost_per_token": input_price,
        "output_cost_per_token": output_price,
        **rest,
    }


MAP = {
    "sample_spec": {"mode": "one of: chat", "max_input_tokens": "a sentence"},
    "sharp-1": entry(
        2.5e-06,
        1e-05,
        cache_read_input_token_cost=1.25e-06,
        max_input_tokens=200_000,
        supports_function_calling=True,
        supports_vision=True,
        supports_response_schema=True,
    ),
    "azure/sharp-1": entry(9e-06, 9e-05, litellm_provider="azure"),
    "one/common-7b": entry(
        1e-07, 2e-07, litellm_provider="one", max_input_tokens=8000, supports_function_calling=True
    ),
    "two/org/common-7b": entry(1e-07, 2e-07, litellm_provider="two", max_input_tokens=4000),
    "one/split-7b": entry(1e-07, 2e-07, litellm_provider="one"),
    "two/split-7b": entry(3e-07, 2e-07, litellm_provider="two"),
    "home/free-7b": entry(0.0, 0.0, litellm_provider="home", max_input_tokens=4096),
    "painter": entry(1e-06, 1e-06, mode="image_generation"),
    "vectors-3": {"litellm_provider": "openai", "mode": "embedding", "input_cost_per_token": 2e-08},
}


@pytest.fixture
def prices(tmp_path: Path) -> PriceMap:
    path = tmp_path / "map.json"
    path.write_bytes(orjson.dumps(MAP))
    return PriceMap(path)


def endpoint(name: str, **rest: Any) -> EndpointSettings:
    return EndpointSettings(kind="endpoint", name=name, url="http://127.0.0.1:9/v1", **rest)


def test_a_configured_price_is_taken_before_the_map(prices: PriceMap) -> None:
    settings = endpoint("sharp-1", price=PriceSettings(input=1, output=2))
    assert find_price(settings, prices) == Price(1, 2, None)


def test_the_map_gives_the_price_per_million_with_the_cached_input(prices: PriceMap) -> None:
    assert find_price(endpoint("sharp-1"), prices) == Price(2.5, 10.0, 1.25)


def test_the_upstream_model_is_looked_up_before_the_name(prices: PriceMap) -> None:
    assert find_price(endpoint("sharp-1", model="one/split-7b"), prices) == Price(0.1, 0.2)


def test_the_name_is_looked_up_where_the_model_is_unknown(prices: PriceMap) -> None:
    assert find_price(endpoint("sharp-1", model="our-deployment"), prices).input == 2.5


def test_a_provider_prefix_finds_the_entry_of_that_provider(prices: PriceMap) -> None:
    assert find_price(RemoteSettings(kind="remote", name="x", model="openai/sharp-1"), prices).input == 2.5


def test_a_provider_prefix_never_takes_another_providers_entry(prices: PriceMap) -> None:
    with pytest.raises(ConfigError, match="no price for"):
        find_price(RemoteSettings(kind="remote", name="x", model="elsewhere/sharp-1"), prices)


def test_a_bare_model_found_at_several_providers_is_taken_when_they_agree(prices: PriceMap) -> None:
    assert find_price(endpoint("common-7b"), prices) == Price(0.1, 0.2)


def test_a_bare_model_with_several_prices_is_an_error_that_lists_them(prices: PriceMap) -> None:
    with pytest.raises(ConfigError, match=r"one/split-7b \(0.1 in, 0.2 out\), two/split-7b \(0.3 in, 0.2 out\)"):
        find_price(endpoint("split-7b"), prices)


@pytest.mark.parametrize("model", ["home/free-7b", "painter", "never-heard-of", "sample_spec"])
def test_a_model_without_a_price_is_an_error_that_says_what_to_write(prices: PriceMap, model: str) -> None:
    with pytest.raises(ConfigError, match=r"expert 'x'.*price: \{input: 0, output: 0\}"):
        find_price(endpoint("x", model=model), prices)


def test_a_simulated_expert_needs_a_price_as_all_do(prices: PriceMap) -> None:
    with pytest.raises(ConfigError, match="expert 'toy'"):
        find_price(SimulatedSettings(kind="simulated", name="toy"), prices)


def test_without_litellm_the_error_names_the_extra() -> None:
    with pytest.raises(ConfigError, match=r"pointsman\[remote\]"):
        find_price(endpoint("sharp-1"), PriceMap(None))


def test_an_embedding_model_costs_its_input_alone(prices: PriceMap) -> None:
    assert find_price(endpoint("vectors-3", serves="embeddings"), prices) == Price(0.02, 0.0)


def test_a_chat_expert_is_never_priced_as_an_embedding_model(prices: PriceMap) -> None:
    with pytest.raises(ConfigError):
        find_price(endpoint("vectors-3"), prices)


def test_the_map_says_what_an_expert_can_and_how_much_it_reads(prices: PriceMap) -> None:
    spec = describe(endpoint("sharp-1"), prices)
    assert spec.context_tokens == 200_000
    assert spec.capabilities == {"tools", "vision", "json"}


def test_settings_overrule_the_map(prices: PriceMap) -> None:
    spec = describe(endpoint("sharp-1", context_tokens=1000, capabilities=frozenset()), prices)
    assert (spec.context_tokens, spec.capabilities) == (1000, frozenset())


def test_several_entries_promise_only_what_all_of_them_promise(prices: PriceMap) -> None:
    spec = describe(endpoint("common-7b"), prices)
    assert (spec.context_tokens, spec.capabilities) == (4000, frozenset())


def test_an_entry_without_a_price_still_says_what_the_model_reads(prices: PriceMap) -> None:
    spec = describe(endpoint("free-7b", price=PriceSettings(input=0, output=0)), prices)
    assert spec.context_tokens == 4096
    assert spec.price == Price(0, 0)


def test_what_nothing_is_known_of_gets_the_defaults(prices: PriceMap) -> None:
    spec = describe(endpoint("x", price=PriceSettings(input=1, output=1)), prices)
    assert (spec.context_tokens, spec.capabilities) == (CONTEXT_TOKENS, CAPABILITIES)


def test_a_spec_carries_the_settings_through(prices: PriceMap) -> None:
    spec = describe(endpoint("sharp-1", tier="large", like="m", ttft_s=2, token_s=3, enabled=False), prices)
    assert (spec.name, spec.tier, spec.like, spec.ttft_s, spec.token_s) == ("sharp-1", "large", "m", 2, 3)
    assert not spec.enabled


def test_nothing_is_read_when_the_settings_say_it_all(tmp_path: Path) -> None:
    nowhere = PriceMap(tmp_path / "not-there.json")
    settings = endpoint("x", price=PriceSettings(input=1, output=1), context_tokens=10, capabilities=frozenset())
    assert describe(settings, nowhere).context_tokens == 10


@pytest.mark.parametrize("content", [b"{", b"[]"])
def test_a_file_that_is_not_the_map_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "map.json"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"map\.json"):
        find_price(endpoint("x"), PriceMap(path))


def test_the_installed_map_has_the_shape_that_is_read_here() -> None:
    installed = PriceMap.installed()
    if installed.path is None:
        pytest.skip("litellm is not installed")
    spec = describe(RemoteSettings(kind="remote", name="x", model="openai/gpt-4o"), installed)
    assert spec.price.output > spec.price.input > 0
    assert "tools" in spec.capabilities


def test_every_kind_of_token_has_its_price_from_the_map_and_a_zero_is_none(tmp_path: Path) -> None:
    kinds = {
        "cache_read_input_token_cost": 3e-07,
        "cache_creation_input_token_cost": 3.75e-06,
        "cache_creation_input_token_cost_above_1hr": 6e-06,
        "input_cost_per_audio_token": 4e-05,
        "output_cost_per_audio_token": 8e-05,
        "input_cost_per_image_token": 5e-06,
        "output_cost_per_image_token": 3e-05,
        "output_cost_per_reasoning_token": 0.0,
    }
    path = tmp_path / "map.json"
    path.write_bytes(orjson.dumps({"all-kinds": entry(3e-06, 1.5e-05, **kinds)}))
    expected = Price(3, 15, 0.3, 3.75, 6, audio_input=40, image_input=5, audio_output=80, image_output=30)
    assert find_price(endpoint("all-kinds"), PriceMap(path)) == expected


def test_a_price_that_several_entries_disagree_on_is_left_out(tmp_path: Path) -> None:
    found = {
        f"{name}/same-7b": entry(
            1e-06, 2e-06, cache_creation_input_token_cost=write, input_cost_per_audio_token=4e-05
        )
        for name, write in (("one", 1.25e-06), ("two", 2e-06))
    }
    path = tmp_path / "map.json"
    path.write_bytes(orjson.dumps(found))
    assert find_price(endpoint("same-7b"), PriceMap(path)) == Price(1, 2, audio_input=40)


def test_a_price_by_the_second_needs_none_by_the_token(prices: PriceMap) -> None:
    assert find_price(endpoint("x", price=PriceSettings(per_second=0.0006)), prices) == Price(
        0, 0, per_second=0.0006
    )
    both = PriceSettings(input=1, output=2, reasoning=3, per_second=0.5)
    assert find_price(endpoint("x", price=both), prices) == Price(1, 2, reasoning=3, per_second=0.5)


@pytest.mark.parametrize("price", [{}, {"input": 1}, {"output": 1, "per_second": 1}, {"cached_input": 1}])
def test_half_a_price_is_refused(price: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="give `input` and `output`"):
        endpoint("x", price=price)


@pytest.mark.parametrize("serves", ["embeddings", "rerank"])
def test_what_writes_nothing_needs_no_price_of_output(serves: Any, prices: PriceMap) -> None:
    settings = endpoint("x", price={"input": 0.02}, serves=serves)
    assert find_price(settings, prices) == Price(0.02, 0)
