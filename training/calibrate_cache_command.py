"""The command `pointsman calibrate-cache`. Everything heavy is imported when it runs."""

from dataclasses import asdict
from pathlib import Path

import click

from training.command_line import ENCODER, JSON, apart, note, screen, writable, write_json


@click.command("calibrate-cache")
@click.option(
    "--pairs",
    "paths",
    type=click.Path(path_type=Path),
    multiple=True,
    required=True,
    help="Labelled pairs (.csv, .jsonl, .parquet): a, b, and same: 1 where one answer serves both.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    required=True,
    callback=writable,
    help="The file for cache.semantic.calibration.",
)
@click.option(
    "--wrong-share",
    type=click.FloatRange(0, 0.5, min_open=True),
    default=0.02,
    show_default=True,
    help="Of the hits, at most, with 95 % confidence.",
)
@ENCODER
@JSON
def calibrate_cache(
    paths: tuple[Path, ...], out: Path, wrong_share: float, encoder: str, json_out: Path | None
) -> None:
    """Finds how close two questions must be to share an answer, proven on labelled pairs.

    Take pairs that the cache would meet: a question as it came, and the earlier one closest to it.
    """
    import numpy as np

    from router.config import EncoderSettings
    from router.embedding import Encoder
    from router.semantic import write_calibration
    from training.cache_calibration import calibrated, guarded, once, read_pairs, steps
    from training.embedding import VectorCache

    apart(paths, out=out, json=json_out)
    console = screen(json_out)
    given = read_pairs(paths)
    pairs = once(given)
    if len(pairs) < len(given):
        note(
            console,
            f"{len(given) - len(pairs)} pairs are left out: both texts are equal, or one is in an earlier pair",
        )
    compared = guarded(pairs)
    note(
        console,
        f"{int(compared.sum())} of {len(pairs)} pairs are compared at all: short, equal numbers, names, ...",
    )
    model = Encoder(EncoderSettings(model=encoder))
    model.load()
    try:
        vectors = VectorCache(model).embed([text for pair in pairs for text in (pair.a, pair.b)])
    finally:
        model.close()
    cosine = np.einsum("nd,nd->n", vectors[::2], vectors[1::2])
    same = np.array([pair.same for pair in pairs], dtype=bool)
    found = steps(cosine[compared], same[compared])
    for step in found:
        console.print(
            f"cosine {step.cosine:.2f}: {step.hits} hits, {step.wrong} wrong, at most {step.most:.4f}",
            highlight=False,
        )
    calibration = calibrated(found, wrong_share, len(pairs), model)
    write_calibration(out, calibration)
    console.print(
        f"[green]wrote[/] {out}: from a cosine of {calibration.threshold:g} on, at most "
        f"{calibration.wrong_most:.4f} of the hits are wrong",
        highlight=False,
    )
    write_json(json_out, asdict(calibration) | {"steps": [asdict(step) for step in found]})
