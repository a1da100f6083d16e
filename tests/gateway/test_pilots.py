"""Embeddings under `auto` among experts of one space: the one whose pilots are closest, if it is healthy."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from serving import Gateway, World, expert
from upstream import USAGE, answers, refuses

from policies import default_artifact
from router.errors import ConfigError, DataError
from router.pilots import Pilots
from training.pilots_command import pilots

LAW = [
    "The tenant may terminate the lease.",
    "The court dismissed the appeal.",
    "Liability is limited by contract.",
]
MEDICINE = ["The patient has a fever.", "The tumour was removed by surgery.", "Take two tablets after a meal."]
VECTOR = answers({"object": "list", "data": [{"index": 0, "embedding": [1.0]}], "model": "m", "usage": USAGE})


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pilots")
    table, out = folder / "texts.csv", folder / "pilots.safetensors"
    rows = [f"{text},law,contracts" for text in LAW] + [f"{text},medicine," for text in MEDICINE]
    table.write_text("text,expert,domain\n" + "\n".join(rows) + "\n")
    done = CliRunner().invoke(pilots, ["--texts", str(table), "--out", str(out)], catch_exceptions=False)
    assert done.exit_code == 0 and "2 pilots of 2 experts" in done.output and "100.0%" in done.output
    return out


def settings(world: World, path: Path, *more: Any, space: str | None = "s") -> dict[str, Any]:
    def embeds(name: str, url: str, usd: float) -> dict[str, Any]:
        price = {"input": usd, "output": 0.0}
        return expert(name, url, serves="embeddings", tier="large", space=space, price=price)

    one, other = embeds("medicine", world.small.url, 1.0), embeds("law", world.large.url, 4.0)
    chat = expert("small", world.small.url)
    return {
        "experts": [one, other, *more, chat],
        "embeddings": {"pilots": str(path)},
        "policy": {"artifact": str(default_artifact())},
    }


@pytest.fixture
def gateway(world: World, made: Path) -> Iterator[Gateway]:
    world.small.always = world.large.always = VECTOR
    yield world.start(**settings(world, made))


def served(gateway: Gateway, given: Any) -> str:
    answer = gateway.post("/v1/embeddings", model="auto", input=given)
    assert answer.status_code == 200, answer.text
    return answer.headers["x-pointsman-expert"]


def test_a_text_goes_to_the_expert_whose_pilots_are_closest(gateway: Gateway) -> None:
    assert served(gateway, "The judge ruled that the contract is void.") == "law"
    assert served(gateway, "Her doctor prescribed antibiotics for the infection.") == "medicine"
    assert served(gateway, ["The lease ends in May.", "The appeal was lost."] * 40) == "law"
    assert served(gateway, [1, 2, 3]) == "medicine", "nobody reads tokens: the cheapest"


def test_one_that_fails_is_stood_in_for_by_the_next_of_the_space(gateway: Gateway, world: World) -> None:
    world.large.always = refuses(500)
    assert served(gateway, "The judge ruled that the contract is void.") == "medicine"


def test_without_a_common_space_no_expert_stands_in_for_another(world: World, made: Path) -> None:
    world.small.always = world.large.always = VECTOR
    apart = world.start(**settings(world, made, space=None))
    assert served(apart, "The judge ruled that the contract is void.") == "medicine"


def test_what_does_not_fit_stops_the_start(world: World, made: Path, artifact: Path, tmp_path: Path) -> None:
    known = Pilots.read(made)
    given = settings(world, made)
    with pytest.raises(ConfigError, match="does not read the query"):
        world.start(**{**given, "policy": {"artifact": str(artifact)}})
    for owners, encoder, message in ((("x", "law"), known.encoder, "'x'"), (known.owners, "other", "other")):
        path = tmp_path / "pilots"
        Pilots(owners, known.vectors, encoder, known.revision).write(path)
        with pytest.raises(ConfigError, match=message):
            world.start(**settings(world, path))
    for content in (b"", b"{}", b"\x00" * 100):
        path.write_bytes(content)
        with pytest.raises(ConfigError, match="no file of pilots"):
            world.start(**settings(world, path))
    with pytest.raises(ConfigError, match="cannot read"):
        world.start(**settings(world, tmp_path / "none"))


def test_the_command_wants_two_experts(tmp_path: Path) -> None:
    table = tmp_path / "texts.csv"
    table.write_text("text,expert\na,law\n")
    done = CliRunner().invoke(pilots, ["--texts", str(table), "--out", str(tmp_path / "p")])
    assert isinstance(done.exception, DataError) and "fewer than two" in str(done.exception)
