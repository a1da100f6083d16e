"""Languages are told apart by scripts and small words."""

import numpy as np
import pytest

from router.languages import NAMES, language_numbers


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("What is the name of the river that runs to the sea?", "en"),
        ("¿Cuál es el nombre del río que pasa por la ciudad?", "es"),
        ("Quel est le nom de la rivière qui passe dans la ville ?", "fr"),
        ("Wie heißt der Fluss, der durch die Stadt und zu den Feldern führt?", "de"),
        ("Hoe heet de rivier die door het dorp en een stad loopt?", "nl"),
        ("Come si chiama il fiume che passa nel paese e per gli orti?", "it"),
        ("Qual o rio que passa em uma cidade e não chega ao mar com as barcas?", "pt"),
    ],
)
def test_small_words_name_the_language(text: str, language: str) -> None:
    found = dict(zip(NAMES, language_numbers(text), strict=True))
    rivals = {name: found[name] for name in ("en", "es", "fr", "de", "it", "pt", "nl")}
    assert max(rivals, key=lambda name: rivals[name]) == language


@pytest.mark.parametrize(
    ("text", "script"),
    [
        ("Как называется река", "cyrillic"),
        ("ما اسم النهر", "arabic"),
        ("这条河叫什么", "han"),
        ("강 이름", "hangul"),
    ],
)
def test_scripts_are_counted_by_their_letters(text: str, script: str) -> None:
    found = dict(zip(NAMES, language_numbers(text), strict=True))
    assert found[script] > 0.5
    assert found["en"] == 0.0


def test_an_empty_text_is_of_no_language() -> None:
    assert np.array_equal(language_numbers(""), np.zeros(len(NAMES)))
