"""Texts are cut to the window, and rows of tokens become batches of few shapes."""

import random

from tiny_bert import write_bert

from router.encoder_folder import open_folder
from router.encoder_tokens import Tokens, batches, padded, shapes


def test_a_text_longer_than_the_window_keeps_its_head_and_its_tail(tmp_path):
    tokens = Tokens(open_folder(str(write_bert(tmp_path, window=20))))
    whole = Tokens(open_folder(str(write_bert(tmp_path / "wide", window=64)))).ids(
        "a b c d e f g h i j k l m n o p q r s t u v"
    )
    assert tokens.ids("a b c d e f g h i j k l m n o p q r s t u v") == whole[:10] + whole[-10:]


def test_a_huge_text_is_cut_before_it_is_tokenised(tmp_path):
    tokens = Tokens(open_folder(str(write_bert(tmp_path))))
    short = tokens.shorten("head " + "x" * 8_000_000 + " tail")
    assert len(short) < 1000
    assert short.startswith("head")
    assert short.endswith("tail")


def test_batches_hold_every_row_once_short_ones_first_in_known_shapes():
    rng = random.Random(0)
    rows = [[1] * rng.randint(2, 250) for _ in range(100)]
    planned = list(batches(rows, 250))
    assert sorted(row for batch in planned for row in batch.rows) == list(range(100))
    assert [batch.length for batch in planned] == sorted(batch.length for batch in planned)
    assert {(len(batch.rows), batch.length) for batch in planned} <= set(shapes(250))
    assert all(len(rows[row]) <= batch.length for batch in planned for row in batch.rows)


def test_padding_never_exceeds_the_window():
    assert [padded(length, 40) for length in (1, 16, 17, 33, 40)] == [16, 16, 32, 40, 40]
