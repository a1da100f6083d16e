"""The command `pointsman pilots`. Everything heavy is imported when it runs."""

from pathlib import Path

import click

from training.command_line import ENCODER, JSON, apart, screen, writable, write_json


@click.command()
@click.option(
    "--texts",
    "paths",
    type=click.Path(path_type=Path),
    multiple=True,
    required=True,
    help="Labelled texts (.csv, .jsonl, .parquet): text, the expert that is best at it, domain if known.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    required=True,
    callback=writable,
    help="The file for embeddings.pilots.",
)
@ENCODER
@JSON
def pilots(paths: tuple[Path, ...], out: Path, encoder: str, json_out: Path | None) -> None:
    """Makes the pilots by which a text finds its embedding expert: a mean for each expert and domain."""
    from router.config import EncoderSettings
    from router.embedding import Encoder
    from router.errors import DataError
    from router.pilots import Pilots
    from training.embedding import VectorCache
    from training.records import RecordFile

    apart(paths, out=out, json=json_out)
    console = screen(json_out)
    texts: dict[tuple[str, str], list[str]] = {}
    for path in paths:
        for record in RecordFile(path).records():
            owner = record.needed("expert"), record.text("domain") or ""
            texts.setdefault(owner, []).append(record.needed("text"))
    if len({expert for expert, _ in texts}) < 2:
        raise DataError("the texts name fewer than two experts: there is nothing to choose between")
    model = Encoder(EncoderSettings(model=encoder))
    model.load()
    try:
        cache = VectorCache(model)
        vectors = {owner: cache.embed(said) for owner, said in texts.items()}
    finally:
        model.close()
    made = Pilots.of(vectors, model.name, model.revision)
    made.write(out)
    right = sum(
        max(close := made.closeness([vector]), key=lambda name: close[name]) == expert
        for (expert, _), own in vectors.items()
        for vector in own
    )
    count = sum(map(len, texts.values()))
    console.print(
        f"[green]wrote[/] {out}: {len(made.owners)} pilots of {len(set(made.owners))} experts", highlight=False
    )
    console.print(f"of the texts they are made of {right / count:.1%} find their expert", highlight=False)
    found = {
        "pilots": len(made.owners),
        "experts": sorted(set(made.owners)),
        "texts": count,
        "own_texts_right": right / count,
    }
    write_json(json_out, found)
