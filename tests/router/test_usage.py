"""What providers say was used, and what it costs: figures that they or their users published, with the source."""

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.experts.usage import MOST_TOKENS, usage_of
from router.types import Parts, Price, Usage

GPT_4O = Price(2.5, 10, cached_input=1.25)
GPT_4O_AUDIO = Price(2.5, 10, audio_input=40, audio_output=80)
SONNET = Price(3, 15, cached_input=0.3, cache_write=3.75, cache_write_1h=6)
OPUS = Price(5, 25, cached_input=0.5, cache_write=6.25, cache_write_1h=10)
HAIKU = Price(1, 5, cached_input=0.1, cache_write=1.25, cache_write_1h=2)
GROK = Price(1.25, 2.5, cached_input=0.2)
GEMINI = Price(1.25, 10, cached_input=0.31)
DEEPSEEK = Price(0.28, 0.42, cached_input=0.028)

#: What the provider said, the list price then, and the bill in USD: to the digit where one was published.
PUBLISHED: dict[str, tuple[dict[str, Any], Price, str]] = {
    # OpenAI's guide to prompt caching; 1,920 of the 2,006 were read before
    "openai, cached": (
        {
            "prompt_tokens": 2006,
            "completion_tokens": 300,
            "total_tokens": 2306,
            "prompt_tokens_details": {"cached_tokens": 1920},
            "completion_tokens_details": {"reasoning_tokens": 0, "accepted_prediction_tokens": 0},
        },
        GPT_4O,
        "0.005615",
    ),
    # openai-python issue 2554: what gpt-4o-audio-preview says of a short recording
    "openai, spoken": (
        {
            "prompt_tokens": 32,
            "completion_tokens": 0,
            "total_tokens": 32,
            "prompt_tokens_details": {
                "cached_tokens": 0,
                "audio_tokens": 21,
                "text_tokens": 11,
                "image_tokens": 0,
            },
        },
        GPT_4O_AUDIO,
        "0.0008675",
    ),
    # litellm issue 9812: $0.05439 on Anthropic's own bill, where litellm had said $0.091311
    "anthropic's shape, written": (
        {
            "input_tokens": 3,
            "cache_creation_input_tokens": 12304,
            "cache_read_input_tokens": 0,
            "output_tokens": 550,
        },
        SONNET,
        "0.054399",
    ),
    "the same through litellm": (
        {
            "prompt_tokens": 12307,
            "completion_tokens": 550,
            "total_tokens": 12857,
            "prompt_tokens_details": {"cached_tokens": 0, "cache_creation_tokens": 12304},
            "cache_creation_input_tokens": 12304,
            "cache_read_input_tokens": 0,
        },
        SONNET,
        "0.054399",
    ),
    # Anthropic's page on prompt caching, writes for five minutes and for an hour in one call
    "anthropic's shape, both writes": (
        {
            "input_tokens": 2048,
            "cache_read_input_tokens": 1800,
            "cache_creation_input_tokens": 248,
            "output_tokens": 503,
            "cache_creation": {"ephemeral_5m_input_tokens": 148, "ephemeral_1h_input_tokens": 100},
        },
        SONNET,
        "0.015384",
    ),
    # litellm issue 11364: Opus 4.5 in litellm's words; it had said $0.047080
    "litellm, read and written": (
        {
            "total_tokens": 103925,
            "prompt_tokens": 98805,
            "completion_tokens": 5120,
            "prompt_tokens_details": {"cached_tokens": 66360, "cache_creation_tokens": 32435},
            "cache_read_input_tokens": 66360,
            "completion_tokens_details": {"reasoning_tokens": 1710},
            "cache_creation_input_tokens": 32435,
        },
        OPUS,
        "0.36394875",
    ),
    # aider issue 5516: the same prompt read from the cache but for 9 tokens
    "litellm, all but read": (
        {
            "prompt_tokens": 17111,
            "completion_tokens": 0,
            "total_tokens": 17111,
            "prompt_tokens_details": {"cached_tokens": 17102},
            "cache_read_input_tokens": 17102,
        },
        HAIKU,
        "0.0017192",
    ),
    # sub2api issue 5771: xAI's own `cost_in_usd_ticks` said 232856000 of 1e-10 USD
    "xai, thoughts beside the completion": (
        {
            "prompt_tokens": 10120,
            "completion_tokens": 1499,
            "total_tokens": 14428,
            "prompt_tokens_details": {"cached_tokens": 128},
            "completion_tokens_details": {"reasoning_tokens": 2809},
        },
        GROK,
        "0.0232856",
    ),
    # docs.x.ai on prompt caching: nothing was thought, and the total has nothing beside the two
    "xai, cached": (
        {
            "prompt_tokens": 125,
            "completion_tokens": 48,
            "total_tokens": 173,
            "prompt_tokens_details": {
                "text_tokens": 125,
                "audio_tokens": 0,
                "image_tokens": 0,
                "cached_tokens": 98,
            },
            "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 0},
        },
        GROK,
        "0.00017335",
    ),
    # vercel/ai issue 6082: prompt 7,477, answer 2,060, thoughts 1,939 of a total of 11,476; in OpenAI's shape
    # Gemini says nothing of thoughts but that total
    "gemini, thoughts in the total alone": (
        {"prompt_tokens": 7477, "completion_tokens": 2060, "total_tokens": 11476},
        GEMINI,
        "0.04933625",
    ),
    # the names of DeepSeek's API reference; the figures are ours
    "deepseek, hit and miss": (
        {
            "prompt_tokens": 1000,
            "completion_tokens": 200,
            "total_tokens": 1200,
            "prompt_cache_hit_tokens": 960,
            "prompt_cache_miss_tokens": 40,
            "completion_tokens_details": {"reasoning_tokens": 150},
        },
        DEEPSEEK,
        "0.00012208",
    ),
    # OpenRouter's page on usage accounting, at Sonnet's price
    "openrouter, written": (
        {
            "completion_tokens": 2,
            "completion_tokens_details": {"reasoning_tokens": 0},
            "cost": 0.95,
            "cost_details": {"upstream_inference_cost": 19},
            "prompt_tokens": 194,
            "prompt_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 100, "audio_tokens": 0},
            "total_tokens": 196,
        },
        SONNET,
        "0.000687",
    ),
    # Jina's and Voyage's embeddings: a total alone
    "a total alone": ({"total_tokens": 815}, Price(0.02, 0), "0.0000163"),
}


@pytest.mark.parametrize("case", PUBLISHED)
def test_published_usage_costs_what_the_provider_billed(case: str) -> None:
    said, price, usd = PUBLISHED[case]
    usage = usage_of({"usage": said})
    assert usage is not None
    assert price.cost_nano(usage) == Decimal(usd) * 10**9


def test_both_shapes_of_one_call_are_one_usage() -> None:
    own, litellm = (usage_of({"usage": PUBLISHED[case][0]}) for case in list(PUBLISHED)[2:4])
    assert own == litellm == Usage(12307, 550, parts=Parts(cache_write_tokens=12304))


def test_a_responses_usage_counts_what_was_cached_in_its_input() -> None:
    said = {
        "input_tokens": 100,
        "output_tokens": 20,
        "input_tokens_details": {"cached_tokens": 60},
        "output_tokens_details": {"reasoning_tokens": 15},
    }
    assert usage_of({"usage": said}) == Usage(100, 20, 60, parts=Parts(reasoning_tokens=15))


def test_a_total_that_counts_the_caches_beside_the_prompt_makes_the_prompt_whole() -> None:
    said = {
        "prompt_tokens": 10,
        "completion_tokens": 5,
        "total_tokens": 115,
        "prompt_tokens_details": {"cached_tokens": 100},
    }
    assert usage_of({"usage": said}) == Usage(110, 5, 100)


def test_every_kind_has_a_price_of_its_own() -> None:
    usage = Usage(1000, 500, 100, parts=Parts(200, 50, 40, 30, 70, 20, 110))
    price = Price(1, 2, 0.1, 1.25, 2.0, 40, 3, 80, 30, 4)
    expected = (
        (1000 - 100 - 200 - 40 - 30) * 1
        + 100 * Decimal("0.1")
        + 150 * Decimal("1.25")
        + 50 * 2
        + 40 * 40
        + 30 * 3
        + 70 * 80
        + 20 * 30
        + 110 * 4
        + (500 - 70 - 20 - 110) * 2
    )
    assert price.cost_nano(usage) == expected * 1000


def test_a_kind_without_a_price_costs_what_it_is_part_of() -> None:
    usage = Usage(1000, 500, 100, parts=Parts(200, 50, 40, 30, 70, 20, 110))
    assert Price(3, 7).cost_nano(usage) == Price(3, 7).cost_nano(Usage(1000, 500)) == (3000 + 3500) * 1000
    hour = Price(1, 1, cache_write=2).cost_nano(usage) - Price(1, 1).cost_nano(usage)
    assert hour == 200 * 1000, "an hour's write costs a write where it has no price"


def test_a_second_costs_its_price_beside_the_tokens() -> None:
    assert Price(0, 0, per_second=0.0005).cost_nano(Usage(10, 10), took_s=2.5) == 1_250_000
    assert Price(1, 2, per_second=0.0005).cost_nano(Usage(10, 10), took_s=2.5) == 1_250_000 + 30_000
    assert Price(1, 2, per_second=0.0005).cost_nano(Usage(10, 10), took_s=-1) == 30_000


def test_a_price_is_said_in_the_unit_that_it_is_in() -> None:
    assert str(Price(0.15, 0.6)) == "$0.15 in, $0.6 out per million tokens"
    assert str(Price(0, 0, per_second=0.0006)) == "$0.0006 per second of a call"
    assert str(Price(1, 2, per_second=3)) == "$3 per second of a call and $1 in, $2 out per million tokens"


def test_a_price_of_a_fraction_of_a_nano_dollar_counts_and_the_call_is_rounded() -> None:
    price = Price(0.0375, 0)  # 37.5 nano-dollars a token
    assert [price.cost_nano(Usage(tokens)) for tokens in (1, 2, 3, 1000)] == [38, 75, 113, 37_500]


COUNTS = st.integers(-5, 2000) | st.sampled_from([None, 2**63, 1.5, "7", True, MOST_TOKENS])
DETAILS = (
    st.none()
    | st.just("x")
    | st.dictionaries(
        st.sampled_from(
            ["cached_tokens", "audio_tokens", "image_tokens", "reasoning_tokens", "cache_write_tokens"]
        ),
        COUNTS,
    )
)
USAGES = st.fixed_dictionaries(
    {},
    optional={
        **dict.fromkeys(["prompt_tokens", "completion_tokens", "total_tokens", "input_tokens"], COUNTS),
        **dict.fromkeys(["prompt_cache_hit_tokens", "cache_creation_input_tokens"], COUNTS),
        **dict.fromkeys(["prompt_tokens_details", "completion_tokens_details", "cache_creation"], DETAILS),
    },
)


@given(said=USAGES)
def test_whatever_is_said_costs_no_less_than_nothing_and_no_more_than_the_dearest_kind(
    said: dict[str, Any],
) -> None:
    usage = usage_of({"usage": said})
    if usage is None:
        return
    price = Price(2, 3, 0.5, 2.5, 4, 40, 5, 80, 30, 6)
    assert 0 <= usage.cached_tokens <= usage.input_tokens
    assert all(0 <= tokens <= usage.input_tokens for tokens in usage.parts[:4])
    assert all(0 <= tokens <= usage.output_tokens for tokens in usage.parts[4:])
    assert 0 <= price.cost_nano(usage) <= (usage.input_tokens * 40 + usage.output_tokens * 80) * 1000
