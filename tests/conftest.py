"""Shared by all tests: a real Redis of their own, on a unix socket, and the fixtures of a real gateway."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis_process import RedisProcess

from router.errors import LedgerError
from router.ledger.embedded import find_server

pytest_plugins = ["serving"]


@pytest.fixture(scope="session", autouse=True)
def no_home_is_touched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_DATA_HOME", str(tmp_path_factory.mktemp("data")))
        yield


@pytest.fixture(scope="session")
def redis_binary() -> Path:
    """A server to test with: without one the tests skip on a laptop, and fail in CI."""
    try:
        return find_server()
    except LedgerError as error:
        if os.environ.get("CI"):
            pytest.fail(str(error))
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def short_folder() -> Iterator[Path]:
    """A folder whose path leaves room in the 108 bytes of a socket address; pytest's own may not."""
    folder = Path(tempfile.mkdtemp(prefix="pointsman-"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def home(short_folder: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Path:
    """Where the commands keep their data in this test."""
    folder = short_folder / str(abs(hash(request.node.name)))
    folder.mkdir()
    monkeypatch.setenv("XDG_DATA_HOME", str(folder))
    return folder


@pytest.fixture
def redis_process(redis_binary: Path, short_folder: Path, request: pytest.FixtureRequest) -> Iterator[RedisProcess]:
    """A running server that is this test's alone; `parametrize` it indirectly with more options."""
    server = RedisProcess(Path(tempfile.mkdtemp(dir=short_folder)), *getattr(request, "param", ()))
    server.start()
    yield server
    server.kill()


@pytest.fixture(scope="session")
def redis_url(redis_binary: Path, short_folder: Path) -> Iterator[str]:
    """One server for all tests that only need some Redis; its data is shared by them."""
    server = RedisProcess(Path(tempfile.mkdtemp(dir=short_folder)))
    server.start()
    yield server.url
    server.kill()
