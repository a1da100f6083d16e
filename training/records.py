"""Records out of files, one by one: CSV, JSON lines, a JSON array, Parquet, or a pickled table that is trusted.

What a file is, is read off its first bytes, not its name. Text may be gzipped. Only a batch is ever in memory, but
for a pickle, whose format allows nothing else.
"""

import codecs
import gzip
import io
import json
import math
import re
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from router.errors import DataError
from training.text_records import Fields, array_records, csv_records, line_records

BATCH_ROWS = 1_024
ENCODINGS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16, whose mark begins it
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
#: How `surrogateescape` marks a byte that could not be decoded.
UNDECODED = re.compile("[\udc80-\udcff]")
EMPTY = frozenset({"", "nan", "null", "none", "na", "n/a"})
TRUTHS = {"true": 1.0, "false": 0.0}


@dataclass(frozen=True, slots=True)
class Record:
    """One row (CSV, Parquet), line (JSON lines) or element (JSON), counted from 1, a CSV's header not counted."""

    path: Path
    row: int
    fields: Mapping[str, Any]
    within: str = ""  # the column that these fields are inside of, for messages

    def error(self, column: str, message: str) -> DataError:
        return DataError(f"{self.path}, row {self.row}, column {self.within + column!r}: {message}")

    def text(self, column: str) -> str | None:
        """None where the column is missing or empty. Raises `DataError` for a list or an object."""
        value = self.fields.get(column)
        if value is None or value == "" or (isinstance(value, float) and math.isnan(value)):
            return None
        if isinstance(value, dict | list):
            raise self.error(column, f"expected text, found {_kind(value)}")
        return str(value)

    def needed(self, column: str) -> str:
        """The text of a column that no row may leave empty."""
        text = self.text(column)
        if text is None or not text.strip():
            raise self.error(column, "is empty" if column in self.fields else self._missing())
        return text

    def number(self, column: str) -> float:
        """NaN where the column is missing or empty; truths are 1 and 0. Raises `DataError` for other text."""
        value: Any = self.fields.get(column)
        if value is None:
            return math.nan
        if isinstance(value, str):
            word = value.strip().lower()
            if word in EMPTY:
                return math.nan
            value = TRUTHS.get(word, word)
        try:
            return float(value)
        except (TypeError, ValueError) as error:
            raise self.error(column, f"expected a number, found {_shown(value)}") from error

    def amount(self, column: str) -> float:
        """A number of zero or more, or NaN."""
        value = self.number(column)
        if value < 0 or math.isinf(value):
            raise self.error(column, f"{value:g} is not an amount of zero or more")
        return value

    def inside(self, column: str) -> "Record":
        """The fields of an object in a column, also where it is written as JSON text; none where it is empty."""
        value = self.fields.get(column)
        if isinstance(value, str):
            try:
                value = json.loads(value) if value.strip() else None
            except ValueError as error:
                raise self.error(column, f"is not JSON: {error}") from error
        if value is None or (isinstance(value, float) and math.isnan(value)):
            value = {}
        if not isinstance(value, dict):
            raise self.error(column, f"expected an object, found {_kind(value)}")
        return Record(self.path, self.row, value, f"{self.within}{column}.")

    def _missing(self) -> str:
        return f"is missing; there are: {', '.join(self.fields) or 'none'}"


def _kind(value: Any) -> str:
    return "an object" if isinstance(value, dict) else "a list" if isinstance(value, list) else type(value).__name__


def _shown(value: Any) -> str:
    """Enough of a wrong value to find it by, and never a prompt."""
    text = str(value)
    return (
        repr(text if len(text) <= 20 else f"{text[:17]}...") if not isinstance(value, dict | list) else _kind(value)
    )


@dataclass
class RecordFile:
    """One file of records. `encoding` is of its text; None: by its mark, else UTF-8. `rename` maps columns' names.

    A pickle runs whatever program is in it, so one is only read where `trust_pickle` says so.
    """

    path: Path
    encoding: str | None = None
    trust_pickle: bool = False
    rename: Mapping[str, str] = field(default_factory=dict)
    share: float = field(default=0.0, init=False)  # of the file that has been read, in [0, 1]
    _frame: Any = field(default=None, init=False, repr=False)

    def head(self, rows: int = 20) -> list[Record]:
        """The first records. Raises `DataError` where there is none."""
        records: list[Record] = []
        for record in self.records():
            records.append(record)
            if len(records) == rows:
                break
        if not records:
            raise DataError(f"{self.path} holds no row")
        return records

    def records(self) -> Iterator[Record]:
        """Every record, in order. Raises `DataError` naming the file, and row and column where they are known."""
        self.share = 0.0
        try:
            with self.path.open("rb") as file:
                start = file.read(4)
            for row, fields in self._read(start):
                yield Record(self.path, row, self._renamed(fields) if self.rename else fields)
        except OSError as error:
            raise DataError(f"cannot read {self.path}: {error.strerror or error}") from error

    def _read(self, start: bytes) -> Iterator[Fields]:
        if not start:
            raise DataError(f"{self.path} is empty")
        if start == b"PAR1":
            return self._parquet()
        if start[0] == 0x80 and start[1] in (2, 3, 4, 5):
            return self._pickle()
        return self._text(gzipped=start[:2] == b"\x1f\x8b")

    def _renamed(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        for name in self.rename:
            if name not in fields:
                raise DataError(f"{self.path}: no column {name!r} to rename; there are: {', '.join(fields)}")
        return {self.rename.get(name, name): value for name, value in fields.items()}

    def _parquet(self) -> Iterator[Fields]:
        import pyarrow
        import pyarrow.parquet

        row = 0
        try:
            file = pyarrow.parquet.ParquetFile(self.path)
            for batch in file.iter_batches(batch_size=BATCH_ROWS):
                for fields in batch.to_pylist():
                    row += 1
                    yield row, fields
                self.share = row / file.metadata.num_rows
        except pyarrow.ArrowException as error:
            raise DataError(f"cannot read {self.path}, after row {row}: {error}") from error

    def _pickle(self) -> Iterator[Fields]:
        if not self.trust_pickle:
            raise DataError(
                f"{self.path} is a pickle: reading one runs whatever program its maker put into it. Give "
                "--trust-pickle if you trust them with this machine, or turn it into Parquet where that is safe"
            )
        if self._frame is None:
            self._frame = _unpickled(self.path)
        for start in range(0, len(self._frame), BATCH_ROWS):
            part = self._frame.iloc[start : start + BATCH_ROWS].to_dict("records")
            for i, fields in enumerate(part, start + 1):
                yield i, {str(name): value for name, value in fields.items()}
            self.share = (start + len(part)) / len(self._frame)

    def _text(self, gzipped: bool) -> Iterator[Fields]:
        with self.path.open("rb") as file:
            size = self.path.stat().st_size
            raw = gzip.GzipFile(fileobj=file) if gzipped else file
            encoding = self._encoding(raw)
            with io.TextIOWrapper(raw, encoding, errors="surrogateescape", newline="") as text:
                rows = 0
                try:
                    for rows, fields in self._parsed(text):
                        yield rows, fields
                        self.share = file.tell() / size
                except UnicodeError as error:
                    raise DataError(f"{self.path}, after row {rows}: not {encoding}: {_why(error)}") from error
                except (EOFError, gzip.BadGzipFile, zlib.error) as error:
                    raise DataError(f"{self.path}, after row {rows}: the gzip file is damaged: {error}") from error

    def _encoding(self, raw: "BinaryIO | gzip.GzipFile") -> str:
        start = raw.read(4_096)
        raw.seek(0)
        if self.encoding is not None:
            try:
                name = codecs.lookup(self.encoding).name
            except LookupError as error:
                raise DataError(
                    f"no encoding is called {self.encoding!r}; common are: utf-8, latin-1, cp1252"
                ) from error
            return "utf-8-sig" if name == "utf-8" else name
        for mark, name in ENCODINGS:
            if start.startswith(mark):
                return name
        if b"\0" in start:
            guess = "utf-16-le" if start[1::2].count(0) >= start[::2].count(0) else "utf-16-be"
            raise DataError(
                f"{self.path} is not UTF-8 text: it holds zero bytes. Give --encoding {guess} if it is that"
            )
        return "utf-8"

    def _parsed(self, text: io.TextIOWrapper) -> Iterator[Fields]:
        start = text.read(1)
        while start.isspace():
            start = text.read(1)
        text.seek(0)
        parse = {"[": array_records, "{": line_records}.get(start, csv_records)
        for row, fields in parse(self.path, text):
            for name, value in fields.items():
                if isinstance(value, str) and not value.isascii() and (found := UNDECODED.search(value)):
                    raise DataError(
                        f"{self.path}, row {row}, column {name!r}: the byte 0x{ord(found.group()) - 0xDC00:02x} is "
                        f"not {text.encoding.removesuffix('-sig').upper()}; give --encoding (latin-1, cp1252)"
                    )
            yield row, fields


def _why(error: UnicodeError) -> str:
    return error.reason if isinstance(error, UnicodeDecodeError) else str(error)


def _unpickled(path: Path) -> Any:
    """The pandas table in a pickle; needs pandas."""
    import pickle

    import pandas

    try:
        frame = pandas.read_pickle(path)
    except (
        pickle.UnpicklingError,
        EOFError,
        AttributeError,
        ImportError,
        LookupError,
        TypeError,
        ValueError,
    ) as error:
        raise DataError(f"{path} cannot be unpickled here: {error.__class__.__name__}: {error}") from error
    if not isinstance(frame, pandas.DataFrame):
        raise DataError(f"{path} holds {type(frame).__name__}, expected a pandas table")
    return frame
