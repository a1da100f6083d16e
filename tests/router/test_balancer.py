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


def tell(replicas: list[Balancer], now: float = 0.0) -> None:
    rows = [one.figures(now) for one in replicas]
    for number, one in enumerate(replicas):
        others = [row for at, row in enumerate(rows) if at != number]
        summed = {name: tuple(map(sum, zip(*(row[name] for row in others), strict=True))) for name in rows[0]}
        one.told(summed, len(others))


def test_calls_under_way_elsewhere_count() -> None:
    one, other = (Balancer([Address("0"), Address("1")]) for _ in range(2))
    other.places[0].in_flight = 8
    assert chosen(one, 2) == {"0": 1, "1": 1}
    tell([one, other])
    assert chosen(one, 2) == {"1": 2}


def test_an_address_that_was_slow_elsewhere_is_slow() -> None:
    one, other = (Balancer([Address("0"), Address("1")]) for _ in range(2))
    served(other.places[0], 0.05)
    served(other.places[1], 0.01)
    tell([one, other])
    assert chosen(one, 3) == {"1": 3}
    one.told({}, 0)  # the other is gone, or Redis
    assert chosen(one, 2) == {"0": 1, "1": 1}


def test_an_address_that_fails_for_all_replicas_rests_before_it_failed_ten_times_for_one() -> None:
    replicas = [Balancer([Address("0"), Address("1")]) for _ in range(3)]
    for balancer in replicas:
        for _ in range(4):
            balancer.judge(balancer.places[1], 0.0, failed=False)
            balancer.judge(balancer.places[0], 0.0, failed=True)
            assert not balancer.places[0].health.until
    tell(replicas)
    replicas[0].judge(replicas[0].places[0], 0.0, failed=True)
    assert replicas[0].places[0].health.resting_s(0.0) == FIRST_REST_S


def test_replicas_that_see_the_same_do_not_drive_the_load_to_and_fro() -> None:
    """Five replicas, ten calls each at a time that last until the next look; one begins with all at one address."""
    replicas = [Balancer([Address("0"), Address("1")]) for _ in range(5)]
    replicas[0].places[0].in_flight = 10
    tell(replicas)
    for look in range(12):
        for balancer in replicas:
            for place in balancer.places:
                place.in_flight = 0
            for _ in range(10):
                place = balancer.choose(float(look))
                assert place is not None
                place.in_flight += 1
        tell(replicas, float(look))
        first = sum(balancer.places[0].in_flight for balancer in replicas)
        if look > 3:
            assert 20 <= first <= 30
