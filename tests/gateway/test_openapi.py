"""The OpenAPI description says of every route what it takes, which key it wants, and what it may answer."""

from collections.abc import Iterator

import pytest
from serving import Gateway, World


@pytest.fixture
def gateway(world: World, monkeypatch: pytest.MonkeyPatch) -> Iterator[Gateway]:
    monkeypatch.setenv("ADMIN", "admin-credential-of-the-tests")
    monkeypatch.setenv("SECRET", "s" * 32)
    yield world.start(auth={"secret": {"env": "SECRET"}, "admin": {"env": "ADMIN"}})


def test_every_route_is_described(gateway: Gateway) -> None:
    described = gateway.client.get("/openapi.json").json()
    assert gateway.client.get("/openapi.json").json() == described, "however often it is asked for"
    assert described["info"]["title"] == "Pointsman"
    paths = described["paths"]
    for path in ("chat/completions", "messages", "completions", "responses", "embeddings", "rerank", "route"):
        operation = paths[f"/v1/{path}"]["post"]
        assert operation["requestBody"]["content"]["application/json"]["schema"]["required"], path
        assert operation["security"] == [{"key": []}] and {"200", "400", "401", "404"} <= set(
            operation["responses"]
        )
    for path, operations in paths.items():
        for method, operation in operations.items():
            assert "422" not in operation["responses"] or path.startswith("/v1/"), (method, path)
            if path.startswith("/admin/"):
                assert operation["security"] == [{"admin": []}], (method, path)
            if method in ("post", "patch", "put") and path != "/admin/api/config/reload":
                assert "requestBody" in operation, (method, path)


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", "/v1/chat/completions", "POST"),
        ("DELETE", "/v1/models", "GET"),
        ("PUT", "/admin/api/keys", "GET, POST"),
        ("POST", "/v1/responses/resp_x", "DELETE, GET"),
    ],
)
def test_a_wrong_method_is_told_the_right_ones(method: str, path: str, allowed: str, gateway: Gateway) -> None:
    answer = gateway.client.request(method, path)
    assert (answer.status_code, answer.headers["allow"]) == (405, allowed)
    assert answer.json()["error"]["code"] == "method_not_allowed"
