"""The command `pointsman export`. Everything heavy is imported when it runs."""

from pathlib import Path

import click

from router.errors import ConfigError
from training.command_line import JSON, apart, write_json


@click.command()
@click.argument("artifact")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The file to write.")
@click.option(
    "--format",
    "form",
    type=click.Choice(("npz", "csv")),
    default="npz",
    show_default=True,
    help="npz: all arrays, and a card in JSON beside them. csv: what there is per expert.",
)
@JSON
def export(artifact: str, out: Path, form: str, json_out: Path | None) -> None:
    """Writes an ARTIFACT's policy as plain files for other code; `default` is the one that ships."""
    from policies import default_artifact
    from training.export import export_csv, export_npz

    folder = Path(artifact)
    if artifact == "default" and not folder.exists():
        folder = default_artifact()
    apart((), out=out, json=json_out)
    if out.suffix != f".{form}":
        raise ConfigError(f"--out {out}: expected a name that ends in .{form}, or another --format")
    written = (export_csv if form == "csv" else export_npz)(folder, out)
    for path in written:
        click.echo(f"wrote {path}", err=True)
    write_json(json_out, {"format": form, "files": {str(path): path.stat().st_size for path in written}})
