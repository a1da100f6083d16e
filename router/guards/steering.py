"""`steering`: what a prompt says to the router about which model to take is not heard when one is chosen.

The router obeys no prompt: it reads a vector of it, and a sentence that asks for the best model moves that vector
as any other sentence of its length does (`tests/benchmarks/steering.py`). This guard takes that movement away, too,
for sentences that it knows; the expert still reads every word. It finds English sentences by their words: another
language, a new way to say it, or words that merely look hard to the encoder are heard as before.
"""

import re
from collections.abc import Mapping
from typing import Any

from router.conversation import query_text
from router.guards.base import PASS, Guard, Verdict

LONGEST = 400  # characters of a sentence that can be one of these
_SENTENCE = re.compile(r"[^.!?;\n]*(?:[.!?;](?![\s\"')\]]|$)[^.!?;\n]*)*[.!?;\n\"')\]]*\s*")
_MODEL = (
    r"\b(?:models?|llms?|experts?|engines?|tiers?|assistants?|gpt|chatgpt|claude|opus|sonnet|gemini|llama|deepseek|"
    r"grok|mistral|qwen|o[134])\b"
)
_WHICH = (
    r"\b(?:best|strong(?:est)?|large(?:st)?|big(?:gest)?|smart(?:est)?|power(?:ful)?|capable|expensive|priciest|"
    r"pric(?:e)?y|premium|top|frontier|flagship|small(?:est)?|weak(?:est)?|cheap(?:est)?|mini|nano|opus|sonnet|"
    r"(?:gpt|claude|gemini|grok|llama)[- ]?\d|o[134])\b"
)
_TAKE = (
    r"\b(?:route|reroute|forward|send|escalate|dispatch|redirect|switch|pick(?:s|ed)?|choose|select|use|take|pass|"
    r"hand|give|call|prefer|set|skip|avoid|needs?|requires?|deserves?|answer(?:s|ed)?)\b"
)
_ROUTER = r"\b(?:router|rout(?:e|ing)|gateway|dispatcher|load balancer|model (?:selection|choice|picker))\b"
_ORDER = (
    r"\b(?:ignore|override|overrule|bypass|select|choose|pick|prefer|treat|note|must|should|told|deserves?|"
    r"rules?|decision|preference|tier|budget|limit|difficult\w*|premium|best)\b"
)
_SETTING = r"\b(?:tier|preference|model|expert|difficulty|quality[ _]floor|budget)\s*[=:]\s*[\"']?\w+"
_VALUE = r"\b(?:best|frontier|premium|largest|strongest|max\w*|unlimited|opus|gpt|1\.0)\b"


def _both(*words: str) -> str:
    return "".join(f"(?=.*{one})" for one in words)


_STEERS = re.compile(
    rf"^(?:{_both(_MODEL, _WHICH, _TAKE)}|{_both(_ROUTER, _ORDER)}|{_both(_SETTING, _VALUE)})",
    re.IGNORECASE | re.DOTALL,
)


class Steering(Guard):
    """It has no arguments."""

    def before(self, body: Mapping[str, Any]) -> Verdict:
        messages = body.get("messages")
        if not messages:
            return PASS
        text = query_text(messages)
        if (rest := heard(text)) == text:
            return PASS
        return Verdict(heard=rest)


def heard(text: str) -> str:
    """The text without the sentences that speak to the router; as it is where nothing else would be left."""
    if not re.search(f"{_MODEL}|{_ROUTER}|{_SETTING}", text, re.IGNORECASE):
        return text
    kept = "".join(part for part in _SENTENCE.findall(text) if len(part) > LONGEST or not _STEERS.match(part))
    return kept.strip() or text
