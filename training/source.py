"""Files of outcomes, read in batches and only the columns that are used: Parquet by its name, else CSV."""

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from router.errors import DataError
from router.types import Floats
from training.memory import check_fits

NEEDED = ("prompt", "model", "score")
ASIDE = ("tools", "images", "tenant")
TEXTS = ("prompt", "model", "split", "domain", "cost_kind", *ASIDE)
NUMBERS = ("score", "cost_usd", "input_tokens", "output_tokens", "price_in_per_1m", "price_out_per_1m", "turn")
BATCH_ROWS = 32_768
OTHER_DELIMITERS = ";\t|"
SUFFIXES = (".parquet", ".csv")
ROW_BYTES = 88  # of a row's numbers and places while a table is read, without its prompt
NOT_A_NUMBER = re.compile(
    r"CSV column #(?P<column>\d+): (?:Row #(?P<row>\d+): )?.*invalid value '(?P<value>.*)'", re.S
)
CSV_BLOCK = 1 << 20  # bytes that are parsed at a time
MARKS = {b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}


@dataclass(frozen=True)
class Batch:
    """Some rows of one file. A number is NaN where the file has none; a text column may be missing whole."""

    path: Path
    first_row: int  # counted from 1, the header not counted
    texts: dict[str, list[str | None]]
    numbers: dict[str, Floats]

    def __len__(self) -> int:
        return len(self.texts["prompt"])

    def optional(self, column: str) -> list[str | None]:
        return self.texts.get(column) or [None] * len(self)


def file_digest(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").digest()
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error


def batches(path: Path) -> Iterator[Batch]:
    """Raises `DataError` naming the file, and the row and column at fault."""
    import pyarrow

    first_row = 1
    try:
        for columns in _columns(path):
            batch = _batch(path, first_row, columns)
            _check(batch)
            yield batch
            first_row += len(batch)
    except (pyarrow.ArrowException, OSError) as error:
        if "UTF8" in str(error):
            raise _not_utf8(path, "latin-1 or cp1252", f"row {first_row:,} or later") from error
        raise DataError(_misread(path, str(error))) from error


def _misread(path: Path, problem: str) -> str:
    """Arrow counts a CSV file's columns from 0, its header as a row, and rows at all only in a single thread."""
    if NOT_A_NUMBER.search(problem) is None:
        return f"cannot read {path}: {problem}"
    import pyarrow

    try:
        for _ in _columns(path, threads=False):
            pass
    except pyarrow.ArrowException as error:
        problem = str(error)
    found = NOT_A_NUMBER.search(problem)
    assert found is not None
    column = _header(path)[int(found["column"])]
    row = f", row {int(found['row']) - 1:,}" if found["row"] else ""
    return f"{path}{row}, column {column!r}: {found['value']!r} is not a number"


def _header(path: Path) -> list[str]:
    import pyarrow.csv

    with pyarrow.csv.open_csv(path, parse_options=_csv_format()) as reader:
        return list(reader.schema.names)


def _columns(path: Path, *, threads: bool = True) -> Iterator[Any]:
    """Arrow record batches with the columns of ours that the file has."""
    if path.suffix not in SUFFIXES:
        raise DataError(f"{path}: expected a file ending in {' or '.join(SUFFIXES)}")
    if path.suffix == ".parquet":
        import pyarrow.parquet

        file = pyarrow.parquet.ParquetFile(path)
        check_fits(file.metadata.num_rows * ROW_BYTES, file.metadata.num_rows, f"rows of {path}")
        wanted = _wanted(path, file.schema_arrow.names)
        yield from file.iter_batches(batch_size=BATCH_ROWS, columns=wanted)
        return
    import pyarrow.csv

    _check_text(path)
    wanted = _wanted(path, _header(path))
    types = {name: pyarrow.string() if name in TEXTS else pyarrow.float64() for name in wanted}
    convert = pyarrow.csv.ConvertOptions(
        column_types=types, include_columns=wanted, strings_can_be_null=True, quoted_strings_can_be_null=False
    )
    block = pyarrow.csv.ReadOptions(block_size=CSV_BLOCK, use_threads=threads)
    size = path.stat().st_size
    with pyarrow.csv.open_csv(path, block, convert_options=convert, parse_options=_csv_format()) as reader:
        for number, batch in enumerate(reader):
            if not number and size > CSV_BLOCK:
                rows = batch.num_rows * size // CSV_BLOCK
                check_fits(rows * ROW_BYTES, rows, f"rows of {path} (by the first of them)")
            yield batch


def _check_text(path: Path) -> None:
    """Text in two bytes a letter is told by its mark, or by the zeros in it."""
    with path.open("rb") as file:
        head = file.read(4_096)
    for mark, encoding in MARKS.items():
        if head.startswith(mark):
            raise _not_utf8(path, encoding)
    if b"\0" in head:
        raise _not_utf8(path, "utf-16-le or utf-16-be")


def _not_utf8(path: Path, encoding: str, where: str = "") -> DataError:
    return DataError(
        f"{path}{', ' if where else ''}{where}: the text is not UTF-8. If it is {encoding}, "
        f"`pointsman import {path} --encoding {encoding.split()[0]} --out table.parquet` makes a table of it"
    )


def _csv_format() -> Any:
    import pyarrow.csv

    return pyarrow.csv.ParseOptions(newlines_in_values=True)


def _wanted(path: Path, names: list[str]) -> list[str]:
    missing = [name for name in NEEDED if name not in names]
    if missing:
        hint = ""
        if len(names) == 1 and any(mark in names[0] for mark in OTHER_DELIMITERS):
            hint = "; it seems that commas do not separate its columns: `pointsman import` reads such a file too"
        raise DataError(f"{path}: the column {missing[0]!r} is missing; there are: {', '.join(names)}{hint}")
    return [name for name in (*TEXTS, *NUMBERS) if name in names]


def _batch(path: Path, first_row: int, columns: Any) -> Batch:
    import pyarrow

    texts: dict[str, list[str | None]] = {}
    numbers = {name: np.full(columns.num_rows, np.nan) for name in NUMBERS}
    for name in columns.schema.names:
        try:
            if name in TEXTS:
                texts[name] = columns[name].cast(pyarrow.string()).to_pylist()
            else:
                # one type for what tables hold: integers, booleans, decimals
                numbers[name] = columns[name].cast(pyarrow.float64()).to_numpy(zero_copy_only=False)
        except pyarrow.ArrowException as error:
            kind = "texts" if name in TEXTS else "numbers"
            raise DataError(f"{path}: the column {name!r} must hold {kind}, found {columns[name].type}") from error
    return Batch(path, first_row, texts, numbers)


def _check(batch: Batch) -> None:
    for name in ("prompt", "model"):
        for i, value in enumerate(batch.texts[name]):
            if not value:
                raise DataError(f"{batch.path}, row {batch.first_row + i}: the column {name!r} is empty")
    for name, values in batch.numbers.items():
        wrong = np.isinf(values) | (values < 0) | ((values > 1) if name == "score" else False)
        if wrong.any():
            i = int(wrong.argmax())
            expected = "a score in [0, 1]" if name == "score" else "an amount of zero or more"
            raise DataError(
                f"{batch.path}, row {batch.first_row + i}, column {name!r}: {values[i]:g} is not {expected}"
            )
