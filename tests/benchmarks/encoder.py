"""The query encoder on this machine: latency, throughput, neighbours kept, memory and time to load.

`python tests/benchmarks/encoder.py` prints a table and writes `build/bench/encoder.json`. Prompts come from a
seeded generator, so none was ever seen before; for the neighbours real ones are taken where `../shared/data` is.
"""

import asyncio
import random
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from report import Figure, judged, report

from router.config import EncoderSettings
from router.embedding import Encoder
from router.encoder_check import neighbour_agreement, sample_prompts
from router.encoder_folder import open_folder
from router.encoder_graph import build
from router.encoder_precision import options
from router.encoder_tokens import Tokens, batches

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
ROUNDS = 5
FRESH = """
import time; start = time.perf_counter()
from pathlib import Path
from router.config import EncoderSettings
from router.embedding import Encoder
from router.encoder_check import sample_prompts
import random
encoder = Encoder(EncoderSettings()); encoder.load(); loaded = time.perf_counter() - start
for seed in range(4): encoder.encode_batch(sample_prompts(random.Random(seed), 250))
kb = int(Path("/proc/self/status").read_text().split("VmRSS:")[1].split()[0])
encoder.close(); print(loaded, kb / 1024)
"""


def main() -> None:
    encoder = Encoder(EncoderSettings())
    encoder.load()
    while encoder._cold:  # the worker still shows the runtime the shapes of batches
        time.sleep(0.01)
    tokens = Tokens(open_folder("all-MiniLM-L6-v2"))
    goal = "< 5.5" if encoder.export and encoder.export.precision == "bf16" else "< 9"
    figures = []
    for length, count in ((16, 150), (64, 150), (256, 50)):
        seconds = [asyncio.run(alone(encoder, texts(tokens, length, count, seed))) for seed in range(ROUNDS)]
        name = f"one prompt never seen, {length} tokens, p50"
        figures.append(rounds(name, [1e3 * s for s in seconds], "ms", goal if length == 64 else None))
    again = texts(tokens, 64, 150, seed=0)
    seconds = [asyncio.run(alone(encoder, again)) for _ in range(ROUNDS)]
    figures.append(rounds("the same prompt again, p50", [1e3 * s for s in seconds], "ms", "< 0.5"))
    rates = [asyncio.run(together(encoder, texts(tokens, 64, 400, 100 + seed))) for seed in range(ROUNDS)]
    figures.append(rounds("16 at once, 64 tokens", rates, "prompts/s", "> 200"))
    figures.append(neighbours(encoder))
    encoder.close()
    fresh = [tuple(map(float, in_fresh_process().split())) for _ in range(3)]
    figures.append(rounds("time from a bare interpreter to ready", [load for load, _ in fresh], "s", "< 3"))
    figures.append(rounds("resident memory after 1,000 prompts", [rss for _, rss in fresh], "MiB", "< 300"))
    report("encoder", [judged(figure) for figure in figures])


def rounds(name: str, values: list[float], unit: str, goal: str | None) -> Figure:
    return Figure(name, statistics.median(values), min(values), max(values), unit, goal)


def texts(tokens: Tokens, length: int, count: int, seed: int) -> list[str]:
    """Prompts of just so many tokens, special ones included."""
    made: list[str] = []
    words = " ".join(sample_prompts(random.Random(1000 * length + seed), 40 * count * length // 64 + 40)).split()
    while len(made) < count:
        text: list[str] = []
        while (size := len(tokens.ids(" ".join(text)))) < length:
            text += [words.pop() for _ in range(max((length - size) // 2, 1))]
        if size == length:
            made.append(" ".join(text))
    return made


async def alone(encoder: Encoder, prompts: list[str]) -> float:
    seconds = []
    for prompt in prompts:
        start = time.perf_counter()
        await encoder.encode(prompt)
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


async def together(encoder: Encoder, prompts: list[str], callers: int = 16) -> float:
    waiting = iter(prompts)

    async def call() -> None:
        for prompt in waiting:
            await encoder.encode(prompt)

    start = time.perf_counter()
    await asyncio.gather(*(call() for _ in range(callers)))
    return len(prompts) / (time.perf_counter() - start)


def neighbours(encoder: Encoder) -> Figure:
    """Share of 1,000 prompts with the neighbour that float32 gives, with a 95 % bootstrap interval."""
    import openvino

    prompts, source = (
        (real_prompts(), "real") if DATA.is_dir() else (sample_prompts(random.Random(1), 1000), "made-up")
    )
    folder = open_folder("all-MiniLM-L6-v2")
    tokens = Tokens(folder)
    ids = [tokens.ids(prompt) for prompt in prompts]
    exact = openvino.Core().compile_model(build(folder), "CPU", options("f32", threads=2))
    reference = np.zeros((len(ids), encoder.dimension), np.float32)
    for batch in batches(ids, folder.window):
        reference[list(batch.rows)] = exact(batch.arrays(ids, folder.pad_id))[0]
    share = neighbour_agreement(reference, encoder.encode_batch(prompts))
    draws = np.random.default_rng(0).binomial(len(ids), share, 2000) / len(ids)
    low, high = np.quantile(draws, [0.025, 0.975])
    name = f"nearest neighbours as in float32, {len(ids)} {source} prompts"
    return Figure(name, 100 * share, 100 * float(low), 100 * float(high), "%", ">= 98")


def real_prompts() -> list[str]:
    import pyarrow.parquet as parquet

    tables = sorted(DATA.glob("*.parquet"))
    prompts: list[str] = []
    for table in tables:
        known = sorted(set(parquet.read_table(table, columns=["prompt"]).column(0).to_pylist()))
        prompts += random.Random(1).sample(known, 1000 // len(tables) + 1)
    return list(dict.fromkeys(prompts))[:1000]


def in_fresh_process() -> str:
    return subprocess.run([sys.executable, "-c", FRESH], check=True, capture_output=True, text=True).stdout


if __name__ == "__main__":
    main()
