"""`POST /v1/messages/count_tokens`: Anthropic's shape, our estimate. Nothing is called and nothing is billed."""

from fastapi import APIRouter, Request, Response

from gateway.anthropic_request import chat_body
from gateway.chat_request import parse_object, read_chat
from gateway.surfaces import Body, In, Known, answer

api = APIRouter()


@api.post("/v1/messages/count_tokens")
async def count_tokens(body: Body, request: Request, service: In, exchange: Known) -> Response:
    """An estimate of about four bytes a token, as routing reckons; experts count with tokenizers of their own."""
    asked = parse_object(body)
    asked["max_tokens"] = 1  # needed for a message, of which this counts the input alone
    parsed = read_chat(chat_body(asked), request.headers.raw, service.chat_experts)
    return answer({"input_tokens": parsed.input_tokens}, exchange)
