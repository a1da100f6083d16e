"""A quality floor as a caller sees it: in the decision, in the reason, on the command line."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from click.testing import CliRunner
from serving import HELLO, Gateway, World

from gateway.commands import route
from policies.static import Static
from router.artifact import pack, save
from router.types import Outcomes, Queries, Trial

PROVEN = (
    "the quality floor of 0.9 is guaranteed with 90 % confidence: "
    "proven on 500 prompts of the trial against the best of 2 experts"
)
NO_TRIAL = "the quality floor of 0.9 is not guaranteed: the policy's artifact carries no trial"


@pytest.fixture(scope="module")
def tried(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An artifact whose estimates have the small expert at half, and whose trial saw it keep up with the large."""
    queries = Queries(embeddings=np.zeros((40, 0), np.float32), input_tokens=np.ones(40, np.float32))
    right = np.arange(40)[:, None] % 10 < np.array([5, 9])
    policy = Static().fit(
        Outcomes(queries, ("small", "large"), right.astype(float), np.full((40, 2), 1e-4), np.full((40, 2), 50.0))
    )
    came = np.arange(500)[:, None] % 10 < np.array([9, 9])
    trial = Trial(
        quality=np.tile(np.array([0.5, 0.9], np.float32), (500, 1)),
        output_tokens=np.full((500, 2), 50.0),
        input_tokens=np.full(500, 6.0),
        observed=came.astype(float),
    )
    folder = tmp_path_factory.mktemp("tried") / "static"
    save(pack(policy, queries, encoder=None, data_digest="test", metrics={}, trial=trial), folder)
    return folder


def started(world: World, tried: Path, **policy: Any) -> Gateway:
    return world.start(policy={"artifact": str(tried), **policy})


def test_route_tells_what_is_promised(world: World, tried: Path) -> None:
    gateway = started(world, tried)
    asked = {"model": "auto:cheap", "messages": HELLO, "routing": {"quality_floor": 0.9}}
    answer = gateway.post("/v1/route", **asked).json()
    assert answer["expert"] == "small" and answer["reason"].endswith(PROVEN)
    floor = answer["quality_floor"]
    assert floor["asked"] == 0.9 and floor["guaranteed"] is True and floor["confidence"] == 0.9
    assert floor["price_share"] == 1.0 and floor["threshold"] is None and "500 prompts" in floor["reason"]
    del asked["routing"]
    assert gateway.post("/v1/route", **asked).json()["quality_floor"] is None


def test_an_explained_answer_tells_it_too(world: World, tried: Path) -> None:
    asked = {"x-pointsman-quality-floor": "0.9", "x-pointsman-explain": "1"}
    answer = started(world, tried).chat("auto:cheap", headers=asked)
    assert answer.headers["x-pointsman-expert"] == "small"
    assert answer.headers["x-pointsman-reason"].endswith(PROVEN)
    assert answer.json()["pointsman"]["quality_floor"]["guaranteed"] is True


def test_the_confidence_is_the_configurations(world: World, tried: Path) -> None:
    gateway = started(world, tried, confidence=0.95)
    answer = gateway.post("/v1/route", model="auto", messages=HELLO, routing={"quality_floor": 0.9}).json()
    assert "guaranteed with 95 % confidence" in answer["reason"]


def test_an_artifact_without_a_trial_promises_nothing_and_says_so(gateway: Gateway) -> None:
    answer = gateway.post("/v1/route", model="auto:cheap", messages=HELLO, routing={"quality_floor": 0.9}).json()
    assert answer["expert"] == "large" and answer["reason"].endswith(NO_TRIAL)
    assert answer["quality_floor"]["guaranteed"] is False and answer["quality_floor"]["threshold"] == 0.9


@pytest.mark.parametrize("as_json", [False, True])
def test_the_command_line_tells_it(
    as_json: bool, world: World, tried: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "1000")
    config = tmp_path / "pointsman.yaml"
    config.write_text(yaml.safe_dump({**world.settings, "policy": {"artifact": str(tried)}}))
    args = ["Say hello.", "--config", str(config), "--preference", "cheap", "--quality-floor", "0.9"]
    ended = CliRunner().invoke(route, [*args, "--json"] if as_json else args)
    assert ended.exit_code == 0, ended.output
    said = json.loads(ended.stdout)["reason"] if as_json else ended.stdout.splitlines()[-1]
    assert said.endswith(PROVEN)
