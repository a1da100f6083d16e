"""Several studies of one policy on one table; one that cannot be done says why and leaves the others alone."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from router.errors import ConfigError, DataError
from router.policy import Policy
from router.types import Floats
from training.evaluate import comparable
from training.extend import onboarded
from training.studies.ablation import AblationStudy, ablated, variants_of
from training.studies.base import Setup, Tick, silent
from training.studies.cost import ServingCost, TrainingCost, serving_cost, training_cost
from training.studies.domain import DomainStudy, left_out_domains, without_each_domain
from training.studies.expert import ExpertStudy, without_each_expert
from training.studies.rewording import RULES
from training.studies.robustness import Flips, flips

STUDIES = ("domain", "expert", "robustness", "ablation", "cost")


@dataclass(frozen=True)
class Studies:
    """What was studied; `missing` says of those that could not be done why."""

    domain: DomainStudy | None = None
    expert: ExpertStudy | None = None
    robustness: tuple[Flips, ...] | None = None
    ablation: AblationStudy | None = None
    training: TrainingCost | None = None
    serving: ServingCost | None = None
    missing: Mapping[str, str] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Suite:
    """`policy` is fitted: it is asked, and taken apart; `setup` builds it anew. `settings` are ablated too."""

    setup: Setup
    policy: Policy
    embed: Callable[[Sequence[str]], Floats]
    settings: Mapping[str, Any] = field(default_factory=dict)

    def steps(self, name: str) -> int:
        """How often the tick of a study will be called. Raises as the study would."""
        if name == "domain":
            return len(left_out_domains(self.setup)[0])
        if name == "expert":
            return 1 + len(comparable(self.setup.held_out)[1])
        if name == "ablation":
            return 1 + len(variants_of(self.policy, self.settings))
        return len(RULES) if name == "robustness" else 1

    def conducted(self, name: str, tick: Tick = silent) -> dict[str, Any]:
        """The fields of `Studies` that a study fills."""
        if name == "domain":
            return {"domain": without_each_domain(self.setup, tick)}
        if name == "expert":
            return {"expert": without_each_expert(self.setup, tick, onboarded)}
        if name == "robustness":
            return {"robustness": flips(self.policy, self.setup.held_out, self.embed, self.setup.seed, tick=tick)}
        if name == "ablation":
            return {"ablation": ablated(self.setup, variants_of(self.policy, self.settings), tick)}
        training = training_cost(self.setup)[1]
        tick("trained")
        return {"training": training}

    def all(self, names: Sequence[str], ticking: Callable[[str, int], Any]) -> Studies:
        """`ticking` gives, for a study and its steps, a context that holds its tick."""
        found: dict[str, Any] = {"serving": serving_cost(self.policy, self.setup.held_out.queries)}
        missing = {}
        for name in names:
            try:
                with ticking(name, self.steps(name)) as tick:
                    found |= self.conducted(name, tick)
            except (DataError, ConfigError) as error:
                missing[name] = str(error)
        return Studies(**found, missing=missing)


def chosen(names: str) -> tuple[str, ...]:
    """The studies of a comma-separated list; `all` are all. Raises `ConfigError` listing those there are."""
    wanted = [name.strip() for name in names.split(",") if name.strip()]
    if unknown := [name for name in wanted if name not in (*STUDIES, "all")]:
        raise ConfigError(f"no study is called {unknown[0]!r}; there are: {', '.join(STUDIES)}, all")
    return tuple(name for name in STUDIES if name in wanted or "all" in wanted)
