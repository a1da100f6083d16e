"""The language of a prompt in a few numbers: its scripts, and the small words of those that are written in Latin.

LR-MoE (Wang et al., 2023) and LOLA (Srivastava et al., 2024) route by language first; here it is a feature.
"""

import re

import numpy as np

from router.types import Floats

#: script -> its letters; a script that several languages share stands for all of them
SCRIPTS = {
    "accented": "\u00c0-\u024f",
    "greek": "\u0370-\u03ff",
    "cyrillic": "\u0400-\u04ff",
    "hebrew": "\u0590-\u05ff",
    "arabic": "\u0600-\u06ff",
    "devanagari": "\u0900-\u097f",
    "thai": "\u0e00-\u0e7f",
    "kana": "\u3040-\u30ff",
    "han": "\u3400-\u9fff",
    "hangul": "\uac00-\ud7a3",
}
SMALL_WORDS = {
    "en": "the of and to in is that what how which for with are was",
    "es": "el los las que y de por para una del cuál cómo es con",
    "fr": "le les des est et une que dans pour quel quelle sur du au",
    "de": "der die das und ist ein eine nicht mit wie von zu den auf",
    "it": "il gli che di e un una per sono con della come nel quale",
    "pt": "o os as que e uma para com não do da em qual como",
    "nl": "het een en van de is dat niet op te wat hoe zijn met",
}
NAMES = (*SCRIPTS, *SMALL_WORDS)
_OTHERS = re.compile("|".join(f"([{letters}]+)" for letters in SCRIPTS.values()))
_WORD = re.compile(r"[^\W\d_]+")
_LANGUAGES = {
    word: [place for place, words in enumerate(SMALL_WORDS.values()) if word in words.split()]
    for words in SMALL_WORDS.values()
    for word in words.split()
}


def language_numbers(text: str) -> Floats:
    """Shares [17] in the order of `NAMES`: of the characters in each script, then of the words that are small words
    of each language."""
    scripts, small = np.zeros(len(SCRIPTS)), np.zeros(len(SMALL_WORDS))
    if not text.isascii():
        for found in _OTHERS.finditer(text):
            scripts[found.lastindex - 1 if found.lastindex else 0] += len(found.group())
    words = _WORD.findall(text.lower())
    for word in words:
        for place in _LANGUAGES.get(word, ()):
            small[place] += 1
    return np.concatenate([scripts / max(len(text), 1), small / max(len(words), 1)])
