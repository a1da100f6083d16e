"""The README's own configuration: what a newcomer copies must start."""

import re
from pathlib import Path

import yaml

from policies import default_artifact, load_policy
from router.config import load_settings, parse_settings
from router.expert_names import columns
from router.types import ExpertSpec, Price

ROOT = Path(__file__).parents[2]


def test_the_readmes_configuration_fits_the_shipped_policy() -> None:
    block, failures, limits = re.findall(
        r"```yaml\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL
    )
    settings = parse_settings({**yaml.safe_load(block), **yaml.safe_load(limits)})
    assert len(parse_settings({**yaml.safe_load(failures), **yaml.safe_load(limits)}).experts) == 1
    specs = [
        ExpertSpec(name=expert.name, price=Price(0, 0), like=expert.like, tier=expert.tier)
        for expert in settings.experts
    ]
    _, artifact = load_policy(default_artifact())
    assert len(columns(artifact.experts, specs)) == 3


def test_the_example_for_deployment_is_a_configuration() -> None:
    assert load_settings(ROOT / "deploy" / "pointsman.yaml").auth.keys
