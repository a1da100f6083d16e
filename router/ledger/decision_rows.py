"""What the decision log keeps of one routed request: the columns, and the Parquet files made of them.

`pointsman import` reads the columns by these names. Times are Unix seconds, costs integer nano-dollars beside
the `cost_usd` of the answer itself. `prompt`, `prompt_hash` and `embedding` are there as the operator chose.
"""

import hashlib
import io
import os
import uuid
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from router.errors import ConfigError
from router.types import Parts

if TYPE_CHECKING:
    import pyarrow as pa

Keep = Literal["none", "embedding", "hash", "full"]
Row = dict[str, Any]
#: How a request ended: answered, not answered, a stream that broke, a caller who left.
Ending = Literal["ok", "failed", "cut", "gone"]

TEXTS = (
    *("kind", "decision_id", "request_id", "caller", "key_id", "team", "policy", "preference", "wishes"),
    *("chosen", "expert", "ended", "prompt", "prompt_hash", "domain"),
)
COUNTS = ("input_tokens", "cached_tokens", "output_tokens", "cost_nano", *Parts._fields)
FIGURES = ("at", "score", "propensity", "cost_usd", "ttft_s", "latency_s")
FLAGS = ("ok", "streamed", "estimated")


def schema() -> "pa.Schema":
    import pyarrow as pa

    candidate = [("expert", pa.string()), *((name, pa.float64()) for name in ("quality", "std", "cost_usd"))]
    return pa.schema(
        [
            *((name, pa.string()) for name in TEXTS),
            *((name, pa.int64()) for name in COUNTS),
            *((name, pa.float64()) for name in FIGURES),
            *((name, pa.bool_()) for name in FLAGS),
            ("tags", pa.list_(pa.string())),
            ("embedding", pa.list_(pa.float32())),
            ("candidates", pa.list_(pa.struct([*candidate, ("propensity", pa.float64())]))),
            ("attempts", pa.list_(pa.struct([("expert", pa.string()), ("failure", pa.string())]))),
        ]
    )


def kept(prompt: str, vector: Any, keep: Keep) -> Row:
    """The columns of the prompt that `keep` allows. `vector` is [d] float32, or None where none was computed."""
    if keep == "full":
        return {"prompt": prompt}
    if keep == "hash":
        return {"prompt_hash": hashlib.sha256(prompt.encode("utf-8", "surrogatepass")).hexdigest()}
    return {"embedding": vector} if keep == "embedding" and vector is not None else {}


def days(rows: Iterable[Row]) -> Mapping[str, list[Row]]:
    """Rows by the UTC day of their decision, `YYYY-MM-DD`."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(datetime.fromtimestamp(row["at"], UTC).strftime("%Y-%m-%d"), []).append(row)
    return found


def check_writable(folder: str) -> None:
    """Raises `ConfigError` where a library that writing needs is missing."""
    try:
        import pyarrow.parquet  # noqa: F401
    except ImportError:
        raise ConfigError("decisions: pyarrow is not installed; pip install 'pointsman[decisions]'") from None
    if "://" in folder:
        try:
            import fsspec  # noqa: F401
        except ImportError:
            raise ConfigError(f"decisions.folder {folder!r} is a URL and fsspec is not installed") from None


def write(folder: str, name: str, rows: Iterable[Row]) -> None:
    """One file per day, `day=YYYY-MM-DD/NAME.parquet`; a file of that name is replaced as a whole. Blocks.

    Raises `OSError`.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    for day, found in days(rows).items():
        buffer = io.BytesIO()
        pq.write_table(pa.Table.from_pylist(found, schema()), buffer)
        place = f"day={day}/{name}.parquet"
        if "://" in folder:
            _put(f"{folder.rstrip('/')}/{place}", buffer.getvalue())
        else:
            _replace(Path(folder) / place, buffer.getvalue())


def _put(url: str, data: bytes) -> None:
    import fsspec

    system, path = fsspec.core.url_to_fs(url)
    system.makedirs(path.rpartition("/")[0], exist_ok=True)
    system.pipe_file(path, data)  # an object appears as a whole


def _replace(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        with draft.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
