"""Leave one expert out: the policy never saw it, and chooses among the others."""

from collections.abc import Callable
from dataclasses import dataclass

from router.errors import DataError
from router.policy import Policy
from router.types import Outcomes
from training.data import experts_of
from training.evaluate import evaluate
from training.interval import Interval
from training.studies.base import Setup, Tick, silent

#: Makes a policy that was fitted without an expert know it: (policy, all training outcomes, the expert's name).
Onboard = Callable[[Policy, Outcomes, str], Policy]


@dataclass(frozen=True)
class AbsentExpert:
    """What the others gain over their own static mix; `onboarded`: what all gain when the expert comes in later."""

    expert: str
    gain: Interval
    share: Interval
    onboarded: Interval | None


@dataclass(frozen=True)
class ExpertStudy:
    """`gain` and `share` are those of the whole pool, trained together."""

    gain: Interval
    share: Interval
    experts: tuple[AbsentExpert, ...]


def without_each_expert(setup: Setup, tick: Tick = silent, onboard: Onboard | None = None) -> ExpertStudy:
    """Trains once per expert, and once with all. Raises `DataError` where fewer than three can be compared."""
    whole = evaluate(setup.trained(setup.train), setup.held_out, setup.rng(), dataset="all")
    tick("all experts")
    names = whole.experts
    if len(names) < 3:
        raise DataError(f"leaving experts out needs three of them, with costs; there are: {', '.join(names)}")
    absent = []
    for name in names:
        train, held_out = (_without(outcomes, name) for outcomes in (setup.train, setup.held_out))
        policy = setup.trained(train)
        rest = evaluate(policy, held_out, setup.rng(), dataset=name)
        later = None
        if onboard is not None:
            known = onboard(policy, setup.train, name)
            later = evaluate(known, setup.held_out, setup.rng(), dataset=name).gain
        absent.append(AbsentExpert(name, rest.gain, rest.share, later))
        tick(name)
    return ExpertStudy(whole.gain, whole.share, tuple(absent))


def _without(outcomes: Outcomes, expert: str) -> Outcomes:
    return experts_of(outcomes, [k for k, name in enumerate(outcomes.experts) if name != expert])
