"""Commands of the training side run here without the real encoder, and keep nothing outside the test's folder."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from outcome_tables import FakeEncoder

from router.config import EncoderSettings


@pytest.fixture
def encoder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeEncoder:
    """Stands in for the real encoder, and keeps its vectors in a folder of the test's own."""
    fake = FakeEncoder()

    class Encoder:
        def __new__(cls, settings: EncoderSettings) -> FakeEncoder:  # type: ignore[misc]
            fake.name = settings.model
            return fake

    fake.load = fake.close = lambda: None  # type: ignore[attr-defined]
    monkeypatch.setattr("router.embedding.Encoder", Encoder)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return fake


@pytest.fixture
def few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests of what is done with intervals, not of how wide they are."""
    import training.comparison  # noqa: F401 - and with it all that resamples

    for name, module in list(sys.modules.items()):
        if name.startswith("training.") and hasattr(module, "RESAMPLES"):
            monkeypatch.setattr(module, "RESAMPLES", 40)


@pytest.fixture
def run() -> Callable[..., Result]:
    def run(command: object, *args: object) -> Result:
        return CliRunner().invoke(command, [str(arg) for arg in args], catch_exceptions=False)  # type: ignore[arg-type]

    return run
