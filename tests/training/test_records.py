"""Files as they come: in other encodings, damaged, cut, or longer than memory."""

import gzip
import json
import tracemalloc
from pathlib import Path

import pytest

from router.errors import DataError
from training import text_records
from training.records import Record, RecordFile

TEXT = "prompt,model,score\nWie weit ist's nach Köln?,größer,1\n"


def rows(path: Path, encoding: str | None = None) -> list[dict[str, object]]:
    return [dict(record.fields) for record in RecordFile(path, encoding).records()]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_an_encoding_with_a_mark_is_found_out(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "table.csv"
    path.write_bytes(TEXT.encode(encoding))
    assert rows(path) == [{"prompt": "Wie weit ist's nach Köln?", "model": "größer", "score": "1"}]


@pytest.mark.parametrize("encoding", ["latin-1", "cp1252", "utf-16-le"])
def test_an_encoding_without_a_mark_is_given(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "table.csv"
    path.write_bytes(TEXT.encode(encoding))
    assert rows(path, encoding)[0]["model"] == "größer"


def test_json_lines_may_be_in_another_encoding_too(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_bytes(json.dumps({"prompt": "Köln"}, ensure_ascii=False).encode("utf-16"))
    assert rows(path) == [{"prompt": "Köln"}]


def test_bytes_of_another_encoding_name_file_row_and_column(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_bytes(b"prompt,model,score\nplain,small,1\n" + TEXT.splitlines()[1].encode("latin-1"))
    with pytest.raises(
        DataError, match=r"table\.csv, row 2, column 'prompt': the byte 0xf6 is not UTF-8.*--encoding"
    ):
        rows(path)


def test_utf16_without_a_mark_is_told_what_to_give(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_bytes(TEXT.encode("utf-16-be"))
    with pytest.raises(DataError, match="--encoding utf-16-be"):
        rows(path)


def test_utf16_that_ends_in_half_a_character_names_the_row_before(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_bytes((TEXT * 1).encode("utf-16") + b"\x41")
    with pytest.raises(DataError, match=r"table\.csv, after row \d: not utf-16"):
        rows(path)


def test_an_encoding_that_does_not_exist_is_named(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text(TEXT, encoding="utf-8")
    with pytest.raises(DataError, match="no encoding is called 'klingon'"):
        rows(path, "klingon")


def test_gzipped_text_is_read_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "table.csv.gz"
    path.write_bytes(gzip.compress(TEXT.encode()))
    assert rows(path)[0]["model"] == "größer"


def test_a_gzip_file_that_was_cut_says_so(tmp_path: Path) -> None:
    path = tmp_path / "table.csv.gz"
    path.write_bytes(gzip.compress(TEXT.encode() * 9_000)[:-30])
    with pytest.raises(DataError, match="gzip file is damaged"):
        rows(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", r"is empty"),
        ("prompt,model,score\na,b\n", r"row 1: 2 fields, but the header has 3"),
        ("prompt,model,model\na,b,c\n", r"two columns are called 'model'"),
        ('prompt,model\na,b\n"never closed,c\n', r"row 2: not CSV"),
        ('{"prompt": "a"}\n{"prompt": \n', r"row 2: not JSON"),
        ('{"prompt": "a"}\n[1]\n', r"row 2: expected an object.*found list"),
        ('[{"prompt": "a"}, {"prompt": "b"', r"row 2: not JSON, or it ends too early"),
        ("[1, 2]", r"row 1: expected an object.*found int"),
    ],
)
def test_a_damaged_file_names_the_row(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "table"
    path.write_text(content)
    with pytest.raises(DataError, match=message):
        rows(path)


def test_a_header_alone_holds_no_row(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text("prompt,model,score\n")
    with pytest.raises(DataError, match="holds no row"):
        RecordFile(path).head()


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cannot read .*nowhere\.csv: No such file"):
        rows(tmp_path / "nowhere.csv")


def test_a_parquet_file_that_was_cut_is_named(tmp_path: Path) -> None:
    path = tmp_path / "table.parquet"
    path.write_bytes(b"PAR1 and then nothing")
    with pytest.raises(DataError, match=r"cannot read .*table\.parquet"):
        rows(path)


def test_prompts_may_hold_line_breaks_and_be_very_long(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    prompt = "first line\nsecond " + "x" * 300_000
    path.write_text(f'prompt,model\n"{prompt}",small\n\nnext,small\n')
    assert [row["prompt"] for row in rows(path)] == [prompt, "next"]


def test_a_json_array_is_read_across_the_edges_of_chunks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_records, "CHUNK_CHARS", 7)
    path = tmp_path / "table.json"
    records = [{"prompt": "a] , [" * i, "score": i / 4} for i in range(5)]
    path.write_text(json.dumps(records, indent=2))
    assert rows(path) == records


def test_a_long_array_is_never_in_memory_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "table.json"
    with path.open("w") as file:
        file.write("[" + ",\n".join(json.dumps({"prompt": f"{i} {'x' * 1_000}"}) for i in range(30_000)) + "]")
    tracemalloc.start()
    count = sum(1 for _ in RecordFile(path).records())
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert count == 30_000
    assert peak < path.stat().st_size / 3


def test_the_share_that_was_read_grows_to_all(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text("prompt\n" + "a line of some length\n" * 20_000)
    file = RecordFile(path)
    shares = [file.share for _ in file.records()]
    assert shares == sorted(shares)
    assert file.share == 1.0


@pytest.mark.parametrize(("value", "number"), [("0.5", 0.5), (" 1 ", 1.0), ("True", 1.0), (False, 0.0), (3, 3.0)])
def test_numbers_are_read_in_every_way_that_tables_write_them(value: object, number: float) -> None:
    assert Record(Path("t"), 1, {"score": value}).number("score") == number


@pytest.mark.parametrize("value", ["", "NaN", "null", "N/A", None, float("nan")])
def test_what_is_empty_is_no_number(value: object) -> None:
    number = Record(Path("t"), 1, {"score": value}).number("score")
    assert number != number


def test_a_wrong_number_is_shown_but_never_a_whole_prompt() -> None:
    record = Record(Path("t.csv"), 7, {"score": "a secret prompt that was put into the wrong column"})
    with pytest.raises(DataError) as error:
        record.number("score")
    assert str(error.value) == "t.csv, row 7, column 'score': expected a number, found 'a secret prompt t...'"
