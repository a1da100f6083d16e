"""Prompts worded otherwise by seeded rules that keep meaning and digits: typing errors and paraphrases."""

import re
from collections.abc import Callable, Mapping, Sequence

import numpy as np

TYPO_RATES = (0.01, 0.03, 0.1)  # of the letters
FRAMES = (
    "Could you please help me with this? {}",
    "Please answer the following. {}",
    "Hi, I have a question. {}",
    "{} Thank you in advance.",
    "{} Please take your time.",
)
FULL = (
    "do not", "does not", "did not", "is not", "are not", "was not", "were not", "cannot", "will not", "would not",
    "should not", "could not", "has not", "have not", "what is", "that is", "it is", "there is", "i am", "you are",
    "they are", "we are", "let us",
)  # fmt: skip
SHORT = (
    "don't", "doesn't", "didn't", "isn't", "aren't", "wasn't", "weren't", "can't", "won't", "wouldn't",
    "shouldn't", "couldn't", "hasn't", "haven't", "what's", "that's", "it's", "there's", "i'm", "you're",
    "they're", "we're", "let's",
)  # fmt: skip
SENTENCE_END = re.compile(r"(?<=[a-z)\]\"'][.?!])(\s+)(?=[A-Z\"'(])")

#: A rule: a text and a source of chance in, the reworded text out.
Rule = Callable[[str, np.random.Generator], str]


def typos(rate: float) -> Rule:
    """Each letter is, with this chance, swapped with the next one, left out or doubled."""

    def rule(text: str, rng: np.random.Generator) -> str:
        letters = list(text)
        hit = rng.random(len(letters)) < rate
        kind = rng.integers(3, size=len(letters))
        place = 0
        while place < len(letters):
            if hit[place] and letters[place].isalpha():
                if kind[place] == 0 and place + 1 < len(letters) and letters[place + 1].isalpha():
                    letters[place], letters[place + 1] = letters[place + 1], letters[place]
                    place += 1
                elif kind[place] == 1:
                    letters[place] = ""
                else:
                    letters[place] *= 2
            place += 1
        return "".join(letters)

    return rule


def politeness(text: str, rng: np.random.Generator) -> str:
    """A frame of courtesy around the text."""
    before, after = FRAMES[int(rng.integers(len(FRAMES)))].split("{}")
    return before + text + after


def contractions(text: str, rng: np.random.Generator) -> str:
    """Contracts what is written out; where there is nothing of that kind, writes out what is contracted."""
    contracted = _replaced(text, dict(zip(FULL, SHORT, strict=True)))
    return contracted if contracted != text else _replaced(text, dict(zip(SHORT, FULL, strict=True)))


def lower_case(text: str, rng: np.random.Generator) -> str:
    return text.lower()


def punctuation(text: str, rng: np.random.Generator) -> str:
    """Without commas between words and without the mark at the end; numbers keep theirs."""
    return re.sub(r"(?<!\d),(?=\s)|[.?!:]+\s*$", "", text)


def question_first(text: str, rng: np.random.Generator) -> str:
    """The last sentence first: often the question before what it is about."""
    parts = SENTENCE_END.split(text)
    if len(parts) < 3:
        return text
    return f"{parts[-1].strip()} {''.join(parts[:-2])}"


PARAPHRASES: Mapping[str, Rule] = {
    "politeness": politeness,
    "contractions": contractions,
    "lower case": lower_case,
    "punctuation": punctuation,
    "question first": question_first,
}
RULES: Mapping[str, Rule] = {**{f"typos, {rate:.0%} of letters": typos(rate) for rate in TYPO_RATES}, **PARAPHRASES}


def reworded(prompts: Sequence[str], rule: Rule, seed: int) -> list[str]:
    """Each prompt by the rule; a prompt's chances depend on the seed and its place alone."""
    return [rule(prompt, np.random.default_rng((seed, place))) for place, prompt in enumerate(prompts)]


def _replaced(text: str, pairs: Mapping[str, str]) -> str:
    words = "|".join(re.escape(word) for word in pairs)

    def other(match: re.Match[str]) -> str:
        found = match.group()
        new = pairs[found.lower()]
        return new[0].upper() + new[1:] if found[0].isupper() else new

    return re.sub(rf"\b(?:{words})\b", other, text, flags=re.IGNORECASE)
