"""litellm as one model's way out: its import, its silence, its arguments.

litellm takes its own settings (`api_base`, callbacks, retries...) as keywords beside the request's fields, so a
caller's body is never spread into a call: fields of OpenAI's API go by name, and the rest travels in `extra_body`,
which litellm merges into the request of every OpenAI-compatible provider. Other providers take a short list of
fields of their own (`NATIVE`); anything else is refused by name: litellm would drop it, or take it for its own.
"""

import importlib
import logging
import os
from dataclasses import dataclass
from typing import Any

from router.config_experts import RemoteSettings
from router.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Fields:
    """The fields of one surface: `named` are those of OpenAI's API that litellm translates for each provider,
    `ours` those that the expert fills in itself.
    """

    named: frozenset[str]
    ours: frozenset[str]


_CHAT = (
    "temperature top_p n stop max_tokens max_completion_tokens presence_penalty frequency_penalty logit_bias user "
    "response_format seed tools tool_choice parallel_tool_calls logprobs top_logprobs functions function_call "
    "modalities prediction audio reasoning_effort verbosity web_search_options service_tier store "
    "safety_identifier prompt_cache_key"
)
CHAT = Fields(frozenset(_CHAT.split()), frozenset({"model", "messages", "stream", "stream_options"}))
EMBEDDINGS = Fields(frozenset({"dimensions", "user"}), frozenset({"model", "input", "encoding_format"}))
#: Fields of single providers that travel where extra_body does not.
NATIVE = frozenset({"thinking", "top_k", "min_p", "repetition_penalty", "safe_prompt", "safety_settings"})
#: litellm keeps one client, with its connections, for each timeout that it is given: so it is given one, far off,
#: and the expert minds each call's own time.
LONGEST_CALL_S = 86_400.0
_OPENAI_LIKE = frozenset({"openai", "azure", "text-completion-openai", "openrouter"})


class UnknownField(Exception):
    """A field that this provider cannot be sent."""

    def __init__(self, field: str, provider: str) -> None:
        super().__init__(f"the provider {provider} does not take the field {field[:100]!r}")
        self.field = field


class Provider:
    """Where litellm sends this expert's calls. Build one with `connect`, off the event loop."""

    def __init__(self, litellm: Any, settings: RemoteSettings, key: str | None) -> None:
        self.litellm = litellm
        self.model = settings.model or settings.name
        self.key = key
        self.base = settings.api_base
        try:
            _, self.name, found_key, found_base = litellm.get_llm_provider(self.model, api_base=self.base)
        except litellm.exceptions.BadRequestError:
            raise ConfigError(
                f"experts.{settings.name}.model: litellm knows no provider for {self.model!r}; "
                "write `provider/model`, such as anthropic/claude-... or groq/llama-..."
            ) from None
        self.openai_like = self.name in _OPENAI_LIKE or self.name in litellm.openai_compatible_providers
        self.probe_base: str | None = self.base or found_base
        self.probe_key: str | None = key or found_key or self._key_of_environment()

    @classmethod
    def connect(cls, settings: RemoteSettings) -> "Provider":
        """Imports litellm, which takes seconds the first time. Raises `ConfigError`."""
        where = f"experts.{settings.name}"
        key = settings.api_key.read(f"{where}.api_key") if settings.api_key else None
        # before the import: both files are part of the package, and fetching newer ones is not ours to decide
        os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
        os.environ["LITELLM_LOCAL_ANTHROPIC_BETA_HEADERS"] = "True"
        try:
            litellm = importlib.import_module("litellm")
        except ModuleNotFoundError as error:
            if error.name != "litellm":
                raise
            raise ConfigError(f"{where}: `kind: remote` needs litellm: pip install 'pointsman[remote]'") from None
        _silence(litellm)
        provider = cls(litellm, settings, key)
        # what the first call would import, on the event loop
        importlib.import_module("openai.resources")
        litellm.completion(
            model="openai/none", messages=[{"role": "user", "content": ""}], api_key="none", mock_response="ready"
        )
        return provider

    def _key_of_environment(self) -> str | None:
        names = [f"{self.name.upper()}_API_KEY"] + (["GOOGLE_API_KEY"] if self.name == "gemini" else [])
        return next((os.environ[name] for name in names if os.environ.get(name)), None)

    def missing_keys(self) -> list[str]:
        """The environment variables that the provider needs and that are not set."""
        if self.probe_key is not None:
            return []
        found = self.litellm.validate_environment(self.model, api_key=self.key, api_base=self.base)
        missing = [] if found["keys_in_environment"] else list(found["missing_keys"])
        # an address has a default, save where every customer has their own
        return [name for name in missing if not name.endswith("_API_BASE") or self.name.startswith("azure")]

    def listing(self) -> tuple[str, dict[str, str]] | None:
        """The URL and headers of a request that lists the provider's models; None where there is no free one."""
        base, key = self.probe_base, self.probe_key or ""
        if self.name == "anthropic":
            base = (base or "https://api.anthropic.com").rstrip("/").removesuffix("/v1")
            return f"{base}/v1/models", {"x-api-key": key, "anthropic-version": "2023-06-01"}
        if self.name == "gemini" and base is None:
            return "https://generativelanguage.googleapis.com/v1beta/models", {"x-goog-api-key": key}
        if self.name == "openai":
            base = base or "https://api.openai.com/v1"
        if base is None or not self.openai_like or self.name.startswith("azure"):
            return None
        return f"{base.rstrip('/')}/models", {"authorization": f"Bearer {key}"}

    def arguments(self, body: dict[str, Any], fields: Fields) -> dict[str, Any]:
        """The keywords for litellm that carry `body`, save what the expert fills in. Raises `UnknownField`."""
        given = {name: value for name, value in body.items() if name not in fields.ours and value is not None}
        named = {name: value for name, value in given.items() if name in fields.named}
        others = {name: value for name, value in given.items() if name not in fields.named}
        arguments = {
            "model": self.model,
            "api_key": self.key,
            "api_base": self.base,
            "timeout": LONGEST_CALL_S,
            "num_retries": 0,
            "max_retries": 0,
            "drop_params": False,
            **named,
        }
        if self.openai_like:
            # what litellm believes a model cannot take is for the model to say
            return arguments | {"allowed_openai_params": list(named)} | ({"extra_body": others} if others else {})
        for field in others:
            if field not in NATIVE:
                raise UnknownField(field, self.name)
        return arguments | others


def _silence(litellm: Any) -> None:
    """No prompt or key is logged, printed or sent anywhere, and nothing is dropped or changed unasked.

    Nor does litellm count the tokens of every prompt, which it does on the event loop: usage is the provider's.
    """
    litellm.telemetry = False
    litellm.suppress_debug_info = True
    litellm.turn_off_message_logging = True
    litellm.disable_token_counter = True
    litellm.disable_hf_tokenizer_download = True
    litellm.drop_params = False
    litellm.modify_params = False
    for name in ("LiteLLM", "LiteLLM Router", "LiteLLM Proxy"):
        logging.getLogger(name).disabled = True
    for name in ("openai", "httpx", "httpcore"):
        logging.getLogger(name).setLevel(logging.WARNING)
