"""Parses text into records without ever holding the whole of it: CSV, JSON lines, and the elements of a JSON array.

Each parser yields (row, fields), rows counted from 1, and raises `DataError` naming the file and the row.
"""

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from router.errors import DataError

CHUNK_CHARS = 1 << 20
LONGEST_FIELD = 2**31 - 1
DELIMITERS = ",;\t"

Fields = tuple[int, dict[str, Any]]


def csv_records(path: Path, text: TextIO) -> Iterator[Fields]:
    """The delimiter is the one of comma, semicolon and tab that the header uses most. Empty lines are no rows."""
    header_line = text.readline()
    text.seek(0)
    # the limit is the process's own; there is no other way to read a prompt of more than 131,072 characters
    csv.field_size_limit(LONGEST_FIELD)
    rows = csv.reader(text, delimiter=max(DELIMITERS, key=header_line.count), strict=True)
    row = 0
    try:
        header = next(rows)
        twice = sorted({name for name in header if name and header.count(name) > 1})
        if twice:
            raise DataError(f"{path}: two columns are called {twice[0]!r}")
        for row, values in enumerate(filter(None, rows), 1):
            if len(values) != len(header):
                raise DataError(f"{path}, row {row}: {len(values)} fields, but the header has {len(header)}")
            yield row, dict(zip(header, values, strict=True))
    except csv.Error as error:
        raise DataError(f"{path}, row {row + 1}: not CSV: {error}") from error


def line_records(path: Path, text: TextIO) -> Iterator[Fields]:
    """JSON lines: a row is the line's number, so that it can be looked up; empty lines are skipped."""
    for row, line in enumerate(text, 1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except ValueError as error:
            raise DataError(f"{path}, row {row}: not JSON: {error}") from error
        yield row, _object(path, row, value)


def array_records(path: Path, text: TextIO) -> Iterator[Fields]:
    """The elements of one JSON array, read in chunks as far as each element needs."""
    decoder = json.JSONDecoder()
    buffer, place, row = text.read(CHUNK_CHARS).lstrip()[1:], 0, 0
    while True:
        while place < len(buffer) and buffer[place] in ", \t\r\n":
            place += 1
        if buffer[place : place + 1] == "]":
            return
        try:
            value, place = decoder.raw_decode(buffer, place)
        except ValueError as error:
            # perhaps only cut: as much again is read, so that a long element costs time in proportion to its length
            more = text.read(max(CHUNK_CHARS, len(buffer) - place))
            if not more:
                raise DataError(
                    f"{path}, row {row + 1}: not JSON, or it ends too early: {error.args[0]}"
                ) from error
            buffer, place = buffer[place:] + more, 0
            continue
        row += 1
        yield row, _object(path, row, value)


def _object(path: Path, row: int, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise DataError(
            f"{path}, row {row}: expected an object with the fields of a record, found {value.__class__.__name__}"
        )
    return value
