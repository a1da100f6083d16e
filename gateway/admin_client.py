"""A running gateway's admin API, as the command line asks it. Standard library only: it is imported by commands."""

import http.client
import json
import urllib.error
import urllib.request
from typing import Any
from urllib.parse import quote, urlencode

from router.errors import PointsmanError

TIMEOUT_S = 30.0


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A gateway never redirects, and the credential goes to nobody else."""

    def redirect_request(self, *_: Any) -> None:
        return None


class AdminClient:
    """Every method raises `PointsmanError` with what the gateway says, or that it cannot be reached."""

    def __init__(self, url: str, credential: str) -> None:
        self._url = url.rstrip("/")
        self._credential = credential
        self._opener = urllib.request.build_opener(_NoRedirect)

    def get(self, *path: str, **query: Any) -> Any:
        return self._ask("GET", path, None, {name: value for name, value in query.items() if value is not None})

    def post(self, *path: str, body: dict[str, Any] | None = None) -> Any:
        return self._ask("POST", path, body or {}, {})

    def patch(self, *path: str, body: dict[str, Any]) -> Any:
        return self._ask("PATCH", path, body, {})

    def put(self, *path: str, body: dict[str, Any]) -> Any:
        return self._ask("PUT", path, body, {})

    def delete(self, *path: str) -> Any:
        return self._ask("DELETE", path, None, {})

    def _ask(self, method: str, path: tuple[str, ...], body: dict[str, Any] | None, query: dict[str, Any]) -> Any:
        url = "/".join([self._url, "admin", "api", *(quote(part, safe="") for part in path)])
        if query:
            url += "?" + urlencode(query)
        headers = {"authorization": f"Bearer {self._credential}", "content-type": "application/json"}
        data = None if body is None else json.dumps(body).encode()
        try:
            request = urllib.request.Request(url, data, headers, method=method)
            with self._opener.open(request, timeout=TIMEOUT_S) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            raise PointsmanError(_said(error)) from None
        except (OSError, http.client.HTTPException, ValueError) as error:
            reason = getattr(error, "reason", None) or error
            raise PointsmanError(f"no gateway answers on {self._url}: {reason}; give --url") from None


def _said(error: urllib.error.HTTPError) -> str:
    try:
        return f"{json.load(error)['error']['message']} (status {error.code})"
    except (ValueError, KeyError, TypeError, OSError):
        return f"{error.code} {error.reason}: is that a Pointsman?"
