"""Pairs of questions with a label: a paraphrase, or one that only sounds the same.

Written by us, in `questions.txt`. An intent is a few wordings of one question with slots. Two wordings with the
same fillers have the same answer; with another filler, with two fillers swapped, or with the opposite asked, they
have not.
"""

import itertools
import random
import re
from dataclasses import dataclass
from pathlib import Path

OPENERS = ("", "", "", "Hello! ", "Quick question. ", "Please tell me: ", "I was wondering. ")


@dataclass(frozen=True, slots=True)
class Intent:
    wordings: tuple[str, ...]
    opposite: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Labelled:
    a: str
    b: str
    same: bool
    kind: str


def _read() -> tuple[dict[str, list[str]], tuple[Intent, ...]]:
    fillers, _, intents = Path(__file__).with_suffix(".txt").read_text(encoding="utf-8").partition("\n\n")
    listed = dict(line.split(": ") for line in fillers.splitlines()[1:])
    split = [line.partition(" => ") for line in intents.splitlines()]
    return (
        {slot: words.split() for slot, words in listed.items()},
        tuple(
            Intent(tuple(ask.split(" | ")), tuple(other.split(" | ")) if other else ()) for ask, _, other in split
        ),
    )


FILLERS, INTENTS = _read()


def pairs(rng: random.Random, intents: tuple[Intent, ...], each: int) -> list[Labelled]:
    """About `each` paraphrases an intent, and as many that only sound the same; no text comes twice."""
    seen: set[str] = set()
    found: list[Labelled] = []

    def add(a: str, b: str, same: bool, kind: str) -> None:
        a, b = rng.choice(OPENERS) + a, rng.choice(OPENERS) + b
        if a != b and a not in seen and b not in seen:
            seen.update((a, b))
            found.append(Labelled(a, b, same, kind))

    for intent in intents:
        for _ in range(each):
            first, second = rng.sample(intent.wordings, 2)
            given = _drawn(rng, intent)
            add(_filled(first, given), _filled(second, given), True, "paraphrase")
        for _ in range(each):
            first, second = rng.choice(intent.wordings), rng.choice(intent.wordings)
            given = _drawn(rng, intent)
            kinds = ["filler", *(["opposite"] if intent.opposite else []), *(["swapped"] if _double(given) else [])]
            kind = rng.choice(kinds)
            if kind == "opposite":
                add(_filled(first, given), _filled(rng.choice(intent.opposite), given), False, kind)
            elif kind == "swapped":
                add(_filled(first, given), _filled(second, _swapped(given)), False, kind)
            else:
                slot = rng.choice(sorted(given))
                others = [one for one in FILLERS[slot.rstrip("2")] if one not in given.values()]
                kind = "another number" if slot.startswith("n") else "another word"
                add(_filled(first, given), _filled(second, {**given, slot: rng.choice(others)}), False, kind)
    return found


def _drawn(rng: random.Random, intent: Intent) -> dict[str, str]:
    slots = sorted(set(itertools.chain.from_iterable(re.findall(r"{(\w+)}", one) for one in intent.wordings)))
    given: dict[str, str] = {}
    for slot in slots:
        given[slot] = rng.choice([one for one in FILLERS[slot.rstrip("2")] if one not in given.values()])
    return given


def _filled(wording: str, given: dict[str, str]) -> str:
    return wording.format(**given)


def _double(given: dict[str, str]) -> bool:
    return any(slot.endswith("2") for slot in given)


def _swapped(given: dict[str, str]) -> dict[str, str]:
    double = next(slot for slot in given if slot.endswith("2"))
    return {**given, double: given[double[:-1]], double[:-1]: given[double]}
