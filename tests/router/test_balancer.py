"""Which address of an expert is asked: the least expected wait, then the zone, then whose share is owed most."""

from collections import Counter

from router.experts.balancer import FADE_S, Balancer, Place
from router.experts.base import Answer, Call, Expert, Stream
from router.experts.health import FEWEST_CALLS, FIRST_REST_S
from router.types import ExpertSpec, Price, Usage


class Address(Expert):
    def __init__(self, place: str, zone: str | None = None, weight: float = 1.0) -> None:
        self.spec = ExpertSpec("a", Price(1, 1))
        self.place, self.zone, self.weight = place, zone, weight

    async def complete(self, call: Call) -> Answer:
        raise NotImplementedError

    async def stream(self, call: Call) -> Stream:
        raise NotImplementedError

    async def probe(self) -> str:
        raise NotImplementedError


def chosen(balancer: Balancer, times: int) -> Counter[str]:
    return Counter(place.expert.place for _ in range(times) if (place := balancer.choose(0.0)))


def served(place: Place, token_s: float, tokens: int = 1000, now: float = 0.0) -> None:
    place.measured(now, token_s * tokens, Usage(0, tokens))


def test_the_one_with_the_fewest_calls_under_way_goes_first() -> None:
    balancer = Balancer([Address("0"), Address("1"), Address("2")])
    balancer.places[0].in_flight = balancer.places[1].in_flight = 2
    assert chosen(balancer, 4) == {"2": 4}


def test_a_faster_one_may_have_more_under_way() -> None:
    balancer = Balancer([Address("0"), Address("1")])
    served(balancer.places[0], 0.01)
    served(balancer.places[1], 0.05)
    balancer.places[0].in_flight = 2
    assert chosen(balancer, 1) == {"0": 1}
    balancer.places[0].in_flight = 9
    assert chosen(balancer, 1) == {"1": 1}


def test_equals_share_the_calls_by_weight() -> None:
    assert chosen(Balancer([Address("0"), Address("1"), Address("2")]), 300) == {"0": 100, "1": 100, "2": 100}
    heavy = Balancer([Address("0", weight=3), Address("1")])
    assert chosen(heavy, 200) == {"0": 150, "1": 50}


def test_the_own_zone_goes_first_among_equals_and_no_further() -> None:
    balancer = Balancer([Address("0", "east"), Address("1", "west"), Address("2")], zone="west")
    assert chosen(balancer, 5) == {"1": 5}
    balancer.places[1].in_flight = 1
    assert "1" not in chosen(balancer, 5)


def test_one_that_was_slow_is_tried_again_in_time() -> None:
    balancer = Balancer([Address("0"), Address("1")])
    served(balancer.places[0], 0.01)
    served(balancer.places[1], 0.1)
    assert balancer.choose(0.0) is balancer.places[0]
    later = 20 * FADE_S
    served(balancer.places[0], 0.01, now=later)
    assert {balancer.choose(later), balancer.choose(later)} == set(balancer.places)


def test_one_that_rests_is_passed_over_and_none_is_asked_twice() -> None:
    balancer = Balancer([Address("0"), Address("1"), Address("2")])
    first, second, third = balancer.places
    first.health.rest(0.0)
    assert balancer.resting_s(0.0) == 0.0
    assert balancer.choose(0.0, [second]) is third
    assert balancer.choose(0.0, [second, third]) is None


def test_where_all_rest_the_one_that_is_back_first_is_asked() -> None:
    balancer = Balancer([Address("0"), Address("1")])
    balancer.places[0].health.rest(1.0)
    balancer.places[1].health.rest(0.0)
    assert balancer.resting_s(1.0) == FIRST_REST_S - 1.0
    assert balancer.choose(1.0) is balancer.places[1]


def test_one_that_fails_every_other_call_is_rested_where_others_do_better() -> None:
    balancer = Balancer([Address("0"), Address("1")])
    bad, good = balancer.places
    for i in range(round(FEWEST_CALLS) * 2):
        balancer.judge(good, 0.0, failed=False)
        balancer.judge(bad, 0.0, failed=bool(i % 2))
    assert bad.health.resting_s(0.0) > 0.0 and good.health.resting_s(0.0) == 0.0


def test_where_all_fail_alike_none_is_an_outlier() -> None:
    balancer = Balancer([Address("0"), Address("1")])
    for i in range(round(FEWEST_CALLS) * 4):
        for place in balancer.places:
            balancer.judge(place, 0.0, failed=bool(i % 2))
    assert not any(place.health.until for place in balancer.places)
