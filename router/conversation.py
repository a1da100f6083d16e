"""What is embedded of a chat request. Knows nothing of encoders."""

from typing import Any


def query_text(messages: list[dict[str, Any]]) -> str:
    """The last user message."""
    for message in reversed(messages):
        if isinstance(message, dict) and message.get("role") == "user":
            content = message.get("content")
            if isinstance(content, str):
                return content
            if isinstance(content, list):
                parts = [part.get("text") for part in content if isinstance(part, dict)]
                return "\n".join(part for part in parts if isinstance(part, str))
    return ""
