"""What a policy predicts, one row per query and expert: enough to recompute every figure with other code."""

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

from router.errors import DataError
from router.files import write_whole
from router.policy import Policy
from router.types import Outcomes
from training.evaluate import known_experts
from training.own_cost import expected_cost


def predictions(policy: Policy, outcomes: Outcomes, dataset: str) -> dict[str, Any]:
    """Columns of n x K rows: `dataset, prompt, expert, quality, quality_std, expected_cost_usd, output_tokens`,
    and what was recorded: `score, cost_usd` (NaN where it was not). Raises `DataError` where no expert is known."""
    known, columns, _ = known_experts(outcomes, policy.experts_)
    estimate = policy.predict(known.queries)
    lengths = estimate.output_tokens[:, columns]
    queries, experts = known.quality.shape
    prompts = known.queries.prompts or ("",) * queries
    return {
        "dataset": [dataset] * (queries * experts),
        "prompt": [prompt for prompt in prompts for _ in range(experts)],
        "expert": list(known.experts) * queries,
        "quality": estimate.quality[:, columns].ravel(),
        "quality_std": estimate.std[:, columns].ravel(),
        "expected_cost_usd": expected_cost(known, lengths).ravel(),
        "output_tokens": lengths.ravel(),
        "score": known.quality.ravel(),
        "cost_usd": known.cost_usd.ravel(),
    }


def write_predictions(parts: Sequence[dict[str, Any]], path: Path) -> None:
    """One Parquet file of all parts, whole or not at all. Raises `DataError` where it cannot be written."""
    import pyarrow
    import pyarrow.parquet

    table = pyarrow.concat_tables([pyarrow.table(part) for part in parts])
    buffer = BytesIO()
    pyarrow.parquet.write_table(table, buffer, compression="zstd")
    try:
        write_whole(path, buffer.getvalue())
    except OSError as error:
        raise DataError(f"cannot write {path}: {error.strerror}") from error
