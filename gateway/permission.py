"""What a virtual key may ask for: its models, policies and preferences."""

from dataclasses import replace

from gateway.chat_request import ChatRequest
from router.errors import Forbidden
from router.keys.records import KeyRecord
from router.router import PolicyInUse
from router.types import Preference


def permitted(key: KeyRecord, request: ChatRequest, use: PolicyInUse, default: Preference) -> ChatRequest:
    """The request within what the key allows; `default` is the preference of who has none. Raises `Forbidden`."""
    wishes = request.wishes
    if request.expert is not None:
        permit_model(key, request.expert)
    else:
        if key.policies is not None and not {"default", use.policy.kind, use.label} & set(key.policies):
            raise Forbidden(
                f"this key may not be routed by {use.label}; it may by: {', '.join(key.policies)}",
                param="routing.policy",
            )
        if key.preferences is not None and (wishes.preference or default) not in key.preferences:
            if wishes.preference is not None:
                raise Forbidden(
                    f"this key may not ask for {wishes.preference!r}; it may for: {', '.join(key.preferences)}",
                    param="routing.preference",
                )
            wishes = replace(wishes, preference=key.preferences[0])
    if key.models is not None:
        wishes = replace(wishes, allowed=frozenset(key.models))
    return request if wishes is request.wishes else replace(request, wishes=wishes)


def permit_model(key: KeyRecord, model: str) -> None:
    """Raises `Forbidden` for a model that the key may not use."""
    if key.models is not None and model not in key.models:
        raise Forbidden(f"this key may not use {model!r}; it may use: {', '.join(key.models)}", param="model")
