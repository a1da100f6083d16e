"""Who the models of the shipped outcome tables are: one name for each across the tables, and its tier.

The rule of the tiers. Open weights go by their billions of parameters: to 12 `small`, to 50 `medium`, to 150
`large`, above `frontier`; a sparse model counts with the geometric mean of all and active parameters. Closed
models go by the price of a million output tokens: under 2 USD `medium`, under 5 `large`, from 5 on `frontier`. A
model with a thinking phase counts one tier up. A model that the mean of a smaller tier beats wherever both were
asked is of a generation behind and no example of its tier: it stays a known model and has no tier, as has one
whose size and price are unknown.
"""

from router.types import Tier

#: model as a table calls it -> (the name that the artifact gives it, its tier)
ROSTER: dict[str, tuple[str, Tier | None]] = {
    # mmlu_pro
    "DeepSeek-Coder-V2": ("deepseek-coder-v2", "large"),
    "Llama-2-13b-hf": ("llama-2-13b", None),
    "Llama-2-70b-hf": ("llama-2-70b", None),
    "Llama-2-7b-hf": ("llama-2-7b", "small"),
    "Meta-Llama-3-70B": ("llama-3-70b", "large"),
    "Meta-Llama-3-8B": ("llama-3-8b", "small"),
    "Meta-Llama-3_1-70B": ("llama-3.1-70b", "large"),
    "Meta-Llama-3_1-70B-Instruct": ("llama-3.1-70b-instruct", "large"),
    "Meta-Llama-3_1-8B": ("llama-3.1-8b", "small"),
    "Mistral-7B-Instruct-v0.1": ("mistral-7b-instruct-v0.1", "small"),
    "Mistral-7B-Instruct-v0.2": ("mistral-7b-instruct-v0.2", "small"),
    "Mistral-7B-v0.1": ("mistral-7b-v0.1", "small"),
    "Mistral-7B-v0.2-hf": ("mistral-7b-v0.2", "small"),
    "Mixtral-8x7B-v0.1": ("mixtral-8x7b-v0.1", "medium"),
    "Phi-3-mini-4k-instruct": ("phi-3-mini-4k-instruct", "small"),
    "Qwen1.5-110B": ("qwen1.5-110b", "large"),
    "Qwen1.5-7B-Chat": ("qwen1.5-7b-chat", "small"),
    "Yi-34B": ("yi-34b", "medium"),
    "Yi-6B": ("yi-6b", "small"),
    "Yi-6b-Chat": ("yi-6b-chat", "small"),
    "c4ai-command-r-v01": ("command-r-v01", "medium"),
    "gemini-1.5-pro-002": ("gemini-1.5-pro-002", "frontier"),
    "gemma-7b": ("gemma-7b", "small"),
    "jamba-1.5-large": ("jamba-1.5-large", None),
    # zeroeval
    "Athene-70B": ("athene-70b", None),
    "Llama-3.1-405B-Inst@hyperbolic": ("llama-3.1-405b-instruct", "frontier"),
    "Llama-3.1-405B-Inst@sambanova": ("llama-3.1-405b-instruct", "frontier"),
    "Meta-Llama-3-70B-Instruct": ("llama-3-70b-instruct", "large"),
    "Meta-Llama-3-8B-Instruct": ("llama-3-8b-instruct", "small"),
    "Meta-Llama-3.1-8B-Instruct": ("llama-3.1-8b-instruct", "small"),
    "Phi-3.5-mini-instruct": ("phi-3.5-mini-instruct", "small"),
    "Qwen2-72B-Instruct": ("qwen2-72b-instruct", "large"),
    "Qwen2-7B-Instruct": ("qwen2-7b-instruct", "small"),
    "Yi-1.5-34B-Chat": ("yi-1.5-34b-chat", "medium"),
    "Yi-1.5-9B-Chat": ("yi-1.5-9b-chat", "small"),
    "claude-3-5-haiku-20241022": ("claude-3-5-haiku-20241022", "large"),
    "claude-3-5-sonnet-20240620": ("claude-3-5-sonnet-20240620", "frontier"),
    "claude-3-5-sonnet-20241022": ("claude-3-5-sonnet-20241022", "frontier"),
    "claude-3-opus-20240229": ("claude-3-opus-20240229", "frontier"),
    "gemini-1.5-flash": ("gemini-1.5-flash", "medium"),
    "gemini-1.5-pro": ("gemini-1.5-pro", "frontier"),
    "gemma-2-2b-it": ("gemma-2-2b-it", "small"),
    "gemma-2-9b-it": ("gemma-2-9b-it", "small"),
    "gpt-3.5-turbo-0125": ("gpt-3.5-turbo-0125", "medium"),
    "gpt-4o-2024-05-13": ("gpt-4o-2024-05-13", "frontier"),
    "gpt-4o-2024-08-06": ("gpt-4o-2024-08-06", "frontier"),
    "o1-mini-2024-09-12": ("o1-mini-2024-09-12", "frontier"),
    "reka-core-20240501": ("reka-core-20240501", None),
    # reasoning_gym
    "anthropic/claude-3.5-sonnet": ("claude-3-5-sonnet-20241022", "frontier"),
    "anthropic/claude-sonnet-4": ("claude-sonnet-4", "frontier"),
    "deepseek/deepseek-r1": ("deepseek-r1", "frontier"),
    "google/gemma-3-27b-it": ("gemma-3-27b-it", "medium"),
    "meta-llama/llama-3.3-70b-instruct": ("llama-3.3-70b-instruct", None),
    "meta-llama/llama-4-maverick": ("llama-4-maverick", "large"),
    "meta-llama/llama-4-scout": ("llama-4-scout", "medium"),
    "mistralai/mistral-small-3.1-24b-instruct": ("mistral-small-3.1-24b-instruct", "medium"),
    "openai/o3-mini": ("o3-mini", "frontier"),
    "qwen/qwq-32b": ("qwq-32b", "large"),
    "x-ai/grok-3-mini-beta": ("grok-3-mini-beta", "large"),
    # llmrouter
    "codegemma-7b": ("codegemma-7b", "small"),
    "llama-3.1-8b-instruct": ("llama-3.1-8b-instruct", "small"),
    "llama-3.1-nemotron-51b-instruct": ("llama-3.1-nemotron-51b-instruct", "large"),
    "llama-3.3-nemotron-super-49b-v1": ("llama-3.3-nemotron-super-49b-v1", "medium"),
    "llama3-chatqa-1.5-70b": ("llama3-chatqa-1.5-70b", None),
    "llama3-chatqa-1.5-8b": ("llama3-chatqa-1.5-8b", "small"),
    "mistral-7b-instruct-v0.3": ("mistral-7b-instruct-v0.3", "small"),
    "qwen2.5-7b-instruct": ("qwen2.5-7b-instruct", "small"),
    # routerbench_lite and routellm
    "WizardLM/WizardLM-13B-V1.2": ("wizardlm-13b-v1.2", None),
    "claude-instant-v1": ("claude-instant-v1", None),
    "claude-v1": ("claude-v1", None),
    "claude-v2": ("claude-v2", None),
    "gpt-3.5-turbo-1106": ("gpt-3.5-turbo-1106", "medium"),
    "gpt-4-1106-preview": ("gpt-4-1106-preview", "frontier"),
    "meta/code-llama-instruct-34b-chat": ("codellama-34b-instruct", "medium"),
    "meta/llama-2-70b-chat": ("llama-2-70b-chat", None),
    "mistralai/mistral-7b-chat": ("mistral-7b-instruct-v0.2", "small"),
    "mistralai/mixtral-8x7b-chat": ("mixtral-8x7b-instruct-v0.1", "medium"),
    "mistralai/Mixtral-8x7B-Instruct-v0.1": ("mixtral-8x7b-instruct-v0.1", "medium"),
    "zero-one-ai/Yi-34B-Chat": ("yi-34b-chat", "medium"),
}
