"""What of a setting may be shown: a URL's place, and nothing in it that may be a secret."""

import pytest

from gateway.masking import masked_url

SHOWN = [
    "https://api.openai.com/v1",
    "http://gpu-1:8000/v1/",
    "https://openrouter.ai/api/v1",
    "https://generativelanguage.googleapis.com/v1beta/openai",
    "https://h/openai/deployments/gpt-4o-mini-2024-07-18",
    "https://h/models/anthropic.claude-3-5-sonnet-20241022-v2:0/v1",
    "https://h/models/Qwen/Qwen3-235B-A22B-Instruct-2507-FP8",
    "https://h/models/mistralai/Mixtral-8x22B-Instruct-v0.1",
    "https://h/v1/projects/my-project-123/locations/northamerica-northeast1/endpoints/1234567890123456789",
    "https://h/api/tokenizer/v1",
    "https://h/keyboards/v1",
    "https://h/token",
    "https://h/monkey-business/v1",
    "unix:///run/user/token-1a2b3c4d5e6f7a8b/redis.sock",
    "s3://bucket/decisions-2026/a1b2c3d4e5f6a7b8",
]


@pytest.mark.parametrize("url", SHOWN)
def test_a_place_is_shown_as_it_is(url: str) -> None:
    assert masked_url(url) == url


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://host/v1/token-abcdef", "https://host/v1/***"),
        ("https://host/token/abcdef/v1", "https://host/token/***/v1"),
        ("https://host/api-keys/ab/v1", "https://host/api-keys/***/v1"),
        ("https://host/sk-proj-abc/v1", "https://host/***/v1"),
        ("https://host/my_api_key:hunter/v1", "https://host/***/v1"),
        ("https://host/token%2Dabcdef/v1", "https://host/***/v1"),
        ("https://host/v1;token=hunter", "https://host/***"),
        ("https://host/x9fK2mQ7pL4z/v1", "https://host/***/v1"),
        ("https://host/550e8400-e29b-41d4-a716-446655440000/v1", "https://host/***/v1"),
        ("https://host/d41d8cd98f00b204e9800998ecf8427e/openai", "https://host/***/openai"),
        ("https://host/QWxhZGRpbjpvcGVuIHNlc2FtZQ/v1", "https://host/***/v1"),
        ("https://host/qwertzuiopasdfghjklyxcvbnm/v1", "https://host/***/v1"),
        ("HTTPS://user:pw@host/token-abcdef?k=v", "HTTPS://***@host/***?***"),
    ],
)
def test_what_may_be_a_secret_in_a_path_is_not(url: str, shown: str) -> None:
    assert masked_url(url) == shown
