"""The settings of experts: what they cost, where they are, what they can."""

import re
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from router.config_base import Budgets, Hedge, Name, RateSettings, Seconds, Secret, Section, Usd
from router.types import Capability, Tier


class PriceSettings(Section):
    """USD per million tokens, USD per second of a call, or both; see `router.types.Price`."""

    input: Usd | None = None
    output: Usd | None = Field(None, description="of what serves embeddings or rerank: 0 where it is not given")
    cached_input: Usd | None = None
    cache_write: Usd | None = Field(None, description="default: `input`")
    cache_write_1h: Usd | None = Field(None, description="default: `cache_write`")
    audio_input: Usd | None = None
    image_input: Usd | None = None
    audio_output: Usd | None = None
    image_output: Usd | None = None
    reasoning: Usd | None = Field(None, description="default: `output`, of which they are a part")
    per_second: Usd = Field(0.0, description="of a call, from its request to its last byte")

    @model_validator(mode="after")
    def _whole(self) -> "PriceSettings":
        if self.input is None and (self.output is not None or not self.per_second):
            raise ValueError("give `input` and `output`, in USD per million tokens, or `per_second` alone")
        return self


class ReplaySettings(Section):
    """Answers recorded outcomes: `table` is a Parquet file of outcomes, `model` the column to play."""

    table: Path
    model: str


class ExpertBase(Section):
    name: Name
    model: str | None = Field(None, description="the upstream's name for it; default: `name`")
    price: PriceSettings | None = Field(None, description="default: litellm's price map, by `model`")
    context_tokens: int | None = Field(None, ge=1)
    capabilities: frozenset[Capability] | None = None
    tier: Tier | None = Field(None, description="what the default policy takes it for until you train your own")
    like: str | None = Field(None, description="a model that the policy's artifact knows")
    limits: RateSettings = RateSettings()
    budget: Budgets = ()
    ttft_s: Seconds = 0.5
    token_s: Seconds = 0.02
    first_byte_timeout_s: Seconds = 300.0
    hedge: Hedge | None = Field(None, description="default: `limits.hedge`")
    enabled: bool = True
    local: bool = Field(False, description="what it is sent stays in your hands; guards may ask for that")
    space: Name | None = Field(None, description="of an embedding model's vectors: experts of one are alike")
    serves: Literal["chat", "embeddings", "rerank"] = Field("chat", description="`rerank`: endpoints only")

    @model_validator(mode="after")
    def _priced_answers(self) -> Self:
        price = self.price
        if self.serves == "chat" and price is not None and price.input is not None and price.output is None:
            raise ValueError("price: give `input` and `output`; only of embeddings and rerank is output nothing")
        return self


def _url(url: str) -> str:
    if not re.fullmatch(r"https?://\S+", url):
        raise ValueError("expected a URL, http://HOST:PORT/v1 or https://HOST/v1")
    return url


Url = Annotated[str, AfterValidator(_url), Field(description="up to and with /v1")]


class PlaceSettings(Section):
    """One of several addresses of a model; `api_key` and `headers` default to the expert's own."""

    url: Url
    api_key: Secret | None = None
    headers: dict[str, str] | None = None
    zone: str | None = Field(None, min_length=1, max_length=100)
    weight: float = Field(1.0, gt=0, le=1000, allow_inf_nan=False, description="share of the calls")


class EndpointSettings(ExpertBase):
    """Any OpenAI-compatible URL, or several that serve the same model."""

    kind: Literal["endpoint"]
    url: Url | None = None
    endpoints: tuple[PlaceSettings, ...] = ()
    api_key: Secret | None = None
    headers: dict[str, str] = Field({})
    health_check_s: Seconds | None = Field(None, description="asks for the list of models so often")

    @model_validator(mode="after")
    def _one_form(self) -> "EndpointSettings":
        if (self.url is None) == (not self.endpoints):
            raise ValueError("give exactly one of `url` or `endpoints` (a list of them)")
        urls = [place.url for place in self.endpoints]
        if len(set(urls)) < len(urls):
            raise ValueError("endpoints: a url is given twice")
        return self

    def places(self) -> tuple[PlaceSettings, ...]:
        """All addresses, one at least, with their keys and headers filled in."""
        if self.url is not None:
            return (PlaceSettings(url=self.url, api_key=self.api_key, headers=self.headers),)
        return tuple(
            place.model_copy(
                update={
                    "api_key": place.api_key or self.api_key,
                    "headers": self.headers if place.headers is None else place.headers,
                }
            )
            for place in self.endpoints
        )


def _no_rerank(serves: str) -> str:
    if serves == "rerank":
        raise ValueError("only an expert of `kind: endpoint` can serve rerank")
    return serves


#: What an expert that is no endpoint may serve.
Served = Annotated[Literal["chat", "embeddings", "rerank"], AfterValidator(_no_rerank)]


class RemoteSettings(ExpertBase):
    """Any provider that litellm speaks to; `model` as litellm names it (`anthropic/claude-...`)."""

    kind: Literal["remote"]
    serves: Served = "chat"
    api_key: Secret | None = None
    api_base: str | None = None


class SimulatedSettings(ExpertBase):
    """No model at all: latency, tokens and quality as configured, or replayed from a table of outcomes."""

    kind: Literal["simulated"]
    serves: Served = "chat"
    quality: float = Field(0.7, ge=0, le=1)
    output_tokens: int = Field(64, ge=1, le=100_000)
    replay: ReplaySettings | None = None
    seed: int = 0


ExpertSettings = Annotated[EndpointSettings | RemoteSettings | SimulatedSettings, Field(discriminator="kind")]
