"""The outcome tables of ../shared/data, with their vectors, and what is to be reached on each."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from router.config import EncoderSettings
from router.embedding import Encoder
from training.data import Table, read_tables
from training.embedding import VectorCache

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
#: data set -> share of the way from the static mix to the oracle
GOALS = {
    "mmlu_pro": 0.10,
    "zeroeval": 0.22,
    "llmrouter": 0.28,
    "routerbench_lite": 0.26,
    "reasoning_gym": 0.52,
    "routellm": 0.15,
}


def embedded_tables(names: Sequence[str]) -> Iterator[tuple[str, Table]]:
    """Each by its name, one at a time; the vectors of prompts that were embedded before come from the cache."""
    encoder = Encoder(EncoderSettings())
    encoder.load()
    try:
        for name in names:
            table = read_tables([DATA / f"{name}.parquet"])
            yield name, table.embedded(VectorCache(encoder).embed(table.prompts))
    finally:
        encoder.close()
