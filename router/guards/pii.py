"""`pii`: personal data that has a form: e-mail addresses, phone numbers, IBANs, cards, national identity numbers.

phonenumbers (the port of Google's libphonenumber) finds phones, python-stdnum checks the check digits of the rest;
both come with the extra `guards`. What has no form (names, postal addresses, what is told of somebody) is not
found: that takes a model of language, which guards of other packages may bring. Images and audio are not looked at.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from router.errors import ConfigError
from router.guards.base import PASS, Guard, Verdict, mapped
from router.types import ExpertSpec

ACTIONS = ("block", "mask", "route")
KINDS = ("email", "iban", "card", "id", "phone")
#: Modules of python-stdnum by their numbers' lengths. These hold a date, a letter or two check digits.
TELLING = {
    9: ("es.dni", "es.nie"),
    11: ("br.cpf", "de.idnr", "pl.pesel"),
    13: ("ch.ssn", "kr.rrn"),
    15: ("fr.nir",),
    16: ("it.codicefiscale",),
    18: ("cn.ric", "mx.curp"),
}
#: One in ten numbers passes these checks: they count only where they are written in groups.
GROUPED = {9: ("ca.sin", "us.ssn"), 10: ("gb.nhs", "se.personnummer"), 12: ("in_.aadhaar",)}
_DOMAIN = re.compile(r"(?:[\w-]{1,63}\.){1,8}[^\W\d_]{2,24}")
_MAILBOX = re.compile(r"[\w.+-]{1,64}\Z")
_IBAN = re.compile(r"\b[A-Za-z]{2}\d{2}(?:[ -]?[A-Za-z0-9]{2,4}){3,8}\b")
_CARD = re.compile(r"(?<![\w.-])[2-6]\d{3}(?:[ -]?\d{2,6}){2,4}(?![\w-])")
#: A word with a digit in it; numbers that are written in groups, too.
_WORD = re.compile(r"(?<![\w.-])[A-Za-z]{0,18}\d\w{0,18}(?:[ .-]\d{1,6}){0,7}(?:-?[A-Za-z])?(?![\w-])")
#: Numbers of every kind have so many digits near each other: only what is around them is read closely.
_DIGITS = re.compile(r"\d(?:\D{0,3}\d){5}")
_INTERNATIONAL = re.compile(r"[+\uff0b](?:\D{0,3}\d){7}")
_NEAR = 48
#: Characters of a body that are searched for phone numbers, at some microseconds each.
PHONE_CHARS = 50_000

Span = tuple[int, int, str]


class _TooMany(Exception):
    """More numbers than can be checked while somebody waits."""


class PersonalData(Guard):
    """`action`: `block` the request, `mask` what is found as `[email]`, or `route` it to experts that are `local`.

    `find` is what to look for. `region` (`US`, `DE`, ...) finds phone numbers without a country code, too.
    `experts` may be routed to beside the local ones. `answers`: answers are looked at, too, once they are whole.
    """

    def __init__(
        self,
        *,
        action: str = "route",
        find: Sequence[str] = KINDS,
        region: str | None = None,
        experts: Sequence[str] = (),
        answers: bool = False,
    ) -> None:
        self.action = action
        self.find = find
        self.region = region
        self.experts = experts
        self.answers = answers
        self.reads_answers = answers

    def open(self, experts: Sequence[ExpertSpec]) -> None:
        _among("action", [self.action], ACTIONS)
        _among("find", self.find, KINDS)
        _among("experts", self.experts, [spec.name for spec in experts])
        if self.answers is not True and self.answers is not False:
            raise ConfigError(f"guards: 'pii': answers: expected true or false, got {self.answers!r}")
        if self.answers and self.action == "route":
            raise ConfigError("guards: 'pii': answers: an answer cannot be routed; use the action block or mask")
        self._only = frozenset(self.experts) | {spec.name for spec in experts if spec.local}
        if self.action == "route" and not self._only:
            raise ConfigError(
                "guards: 'pii': no expert is `local: true` or listed in `experts`: nowhere to route to"
            )
        try:
            import phonenumbers
            from stdnum import get_cc_module, iban, luhn
        except ModuleNotFoundError as error:
            raise ConfigError(f"guards: 'pii' needs {error.name}: pip install 'pointsman[guards]'") from None
        if self.region is not None and self.region not in phonenumbers.SUPPORTED_REGIONS:
            raise ConfigError(f"guards: 'pii': region: expected two letters such as US, got {self.region!r}")
        self._phones: Callable[[str], Any] = lambda text: phonenumbers.PhoneNumberMatcher(text, self.region)
        self._telling, self._grouped = (
            {length: [get_cc_module(*name.split(".")) for name in names] for length, names in table.items()}
            for table in (TELLING, GROUPED)
        )
        self._iban: Any = iban
        self._luhn: Any = luhn

    def before(self, body: Mapping[str, Any]) -> Verdict:
        try:
            found, masked = self._look(body)
        except _TooMany:
            return Verdict(block="the request holds too many numbers to look for personal data among them")
        if not found:
            return PASS
        what = f"personal data ({', '.join(sorted(found))})"
        if self.action == "mask":
            return Verdict(body=masked)
        if self.action == "block":
            return Verdict(block=f"the request holds {what}, which may not be sent here")
        return Verdict(only=self._only, reason=f"{what} stays on local experts")

    def after(self, answer: Mapping[str, Any]) -> Verdict:
        try:
            found, masked = self._look({"choices": answer.get("choices")})
        except _TooMany:
            return Verdict(block="the answer holds too many numbers to look for personal data among them")
        if not found:
            return PASS
        if self.action == "mask":
            return Verdict(body={**answer, **masked})
        return Verdict(block=f"the answer holds personal data ({', '.join(sorted(found))})")

    def _look(self, body: Mapping[str, Any]) -> tuple[set[str], dict[str, Any]]:
        """The kinds that are found, and the body with `[kind]` in the place of each. Raises `_TooMany`."""
        found: set[str] = set()
        left = PHONE_CHARS

        def change(text: str) -> str:
            nonlocal left
            spans, searched = self.spans(text, left)
            left -= searched
            parts, done = [], 0
            for start, end, kind in spans:
                found.add(kind)
                parts += [text[done:start], f"[{kind}]"]
                done = end
            return "".join([*parts, text[done:]]) if spans else text

        return found, mapped(dict(body), change)

    def spans(self, text: str, phone_chars: int = PHONE_CHARS) -> tuple[list[Span], int]:
        """What is found, in order and without overlaps, and how many characters were searched for phones."""
        found: list[Span] = []
        searched = 0
        if "email" in self.find:
            found += [(start, end, "email") for start, end in _emails(text)]
        for offset, stop in _around(_DIGITS, text):
            part = text[offset:stop]
            for kind, look in (("iban", self._ibans), ("card", self._cards), ("id", self._ids)):
                if kind in self.find:
                    found += [(offset + start, offset + end, kind) for start, end in look(part)]
            for start, end in self._dialled(part):
                searched += end - start
                if searched > phone_chars:
                    raise _TooMany
                phones = map(_phone, self._phones(part[start:end]))
                found += [(offset + start + first, offset + start + last, "phone") for first, last in phones]
        return _apart(found), searched

    def _dialled(self, text: str) -> Iterator[tuple[int, int]]:
        """Where phone numbers may be: without a region only behind a plus."""
        if "phone" not in self.find:
            return iter(())
        return _around(_INTERNATIONAL, text) if self.region is None else iter([(0, len(text))])

    def _ibans(self, text: str) -> Iterator[tuple[int, int]]:
        for match in _IBAN.finditer(text):
            word = match.group()
            while len(word) >= 15 and not self._iban.is_valid(word):  # the words behind one look like its groups
                word = word[: max(word.rfind(" "), word.rfind("-"), 0)]
            if len(word) >= 15:
                yield match.start(), match.start() + len(word)

    def _cards(self, text: str) -> Iterator[tuple[int, int]]:
        for match in _CARD.finditer(text):
            digits = re.sub(r"\D", "", match.group())
            if 13 <= len(digits) <= 19 and self._luhn.is_valid(digits):
                yield match.span()

    def _ids(self, text: str) -> Iterator[tuple[int, int]]:
        for match in _WORD.finditer(text):
            word = match.group()
            length = sum(map(str.isalnum, word))
            modules = self._telling.get(length, ())
            if not word.isalnum():
                modules = (*modules, *self._grouped.get(length, ()))
            if any(module.is_valid(word) for module in modules):
                yield match.span()


def _emails(text: str) -> Iterator[tuple[int, int]]:
    """Looks around every @ alone: one search of a long text would hold everybody up, whatever thread it is in."""
    at = text.find("@")
    while at >= 0:
        domain = _DOMAIN.match(text, at + 1)
        mailbox = _MAILBOX.search(text[max(at - 64, 0) : at]) if domain else None
        if domain and mailbox:
            yield at - len(mailbox.group()), domain.end()
        at = text.find("@", at + 1)


def _phone(match: Any) -> tuple[int, int]:
    """Without a bracket that it begins with and that closes behind it."""
    unclosed = match.raw_string.startswith("(") and match.raw_string.count("(") > match.raw_string.count(")")
    return match.start + unclosed, match.end


def _around(pattern: re.Pattern[str], text: str) -> Iterator[tuple[int, int]]:
    """What is near the pattern's matches, without overlaps and without a match that is cut."""
    start = end = 0
    for match in pattern.finditer(text):
        if match.start() - _NEAR > end:
            if end:
                yield start, end
            start = match.start() - _NEAR
        end = min(match.end() + _NEAR, len(text))
    if end:
        yield start, end


def _apart(spans: list[Span]) -> list[Span]:
    """In order, those that meet as one: as what begins first, but a number in an address is part of the address."""
    found: list[Span] = []
    for start, end, kind in sorted(spans, key=lambda span: (span[0], -span[1], KINDS.index(span[2]))):
        if found and start < found[-1][1]:
            before = found[-1]
            found[-1] = (before[0], max(before[1], end), "email" if kind == "email" else before[2])
        else:
            found.append((start, end, kind))
    return found


def _among(name: str, given: Sequence[str], there: Sequence[str]) -> None:
    if not isinstance(given, list | tuple) or (not given and name == "find"):
        raise ConfigError(f"guards: 'pii': {name}: expected a list of {', '.join(there)}, got {given!r}")
    for one in given:
        if one not in there:
            raise ConfigError(f"guards: 'pii': {name}: {one!r} is none of {', '.join(there)}")
