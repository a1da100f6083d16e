"""The gateway's commands: demo, serve, route, doctor. Heavy imports happen when one of them runs."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from router.config import Settings

DEMO = Path(__file__).with_name("demo.yaml")

config_option = click.option(
    "--config",
    "-c",
    type=click.Path(path_type=Path, dir_okay=False),
    help="YAML configuration; default: the demo's simulated experts",
)


def _settings(config: Path | None, **overrides: Any) -> "Settings":
    from router.config import load_settings

    return load_settings(config or DEMO, **overrides)


@click.command()
@click.option("--config", "-c", type=click.Path(path_type=Path, dir_okay=False), required=True)
@click.option("--host", help="overrides the configuration's")
@click.option("--port", "-p", type=click.IntRange(0, 65_535), help="overrides the configuration's; 0: any free one")
def serve(config: Path, host: str | None, port: int | None) -> None:
    """Starts the gateway."""
    from gateway.configuration import Source
    from gateway.server import run

    def ready(url: str, policy: str) -> None:
        click.echo(f"pointsman is ready on {url} (policy {policy})")

    overrides = {"host": host, "port": port}
    run(_settings(config, **overrides), ready, Source(config, overrides))


@click.command()
@click.option("--port", "-p", type=click.IntRange(0, 65_535), default=8000, show_default=True)
def demo(port: int) -> None:
    """Starts a gateway with simulated experts and prints what to try."""
    from gateway.server import run

    def ready(url: str, policy: str) -> None:
        click.echo(TRY.format(url=url, policy=policy))

    run(_settings(None, port=port), ready)


TRY = """
Pointsman is ready on {url} with four simulated experts and the shipped policy ({policy}).

Ask it, and look at x-pointsman-expert in the headers:

  curl -i {url}/v1/chat/completions -H 'content-type: application/json' \\
    -d '{{"model": "auto", "messages": [{{"role": "user", "content": "Is the square root of 2 rational?"}}]}}'

See why, without calling anything:

  curl -s {url}/v1/route -H 'content-type: application/json' \\
    -d '{{"model": "auto:cheap", "messages": [{{"role": "user", "content": "What is the capital of France?"}}]}}'

From Python (pip install openai):

  from openai import OpenAI
  client = OpenAI(base_url="{url}/v1", api_key="demo")
  answer = client.chat.completions.create(
      model="auto",  # or auto:cheap, auto:balanced, auto:best, or an expert: pebble, cobble, boulder, summit
      messages=[{{"role": "user", "content": "Write a haiku about railways."}}],
      extra_body={{"routing": {{"quality_floor": 0.9}}}},
  )
  print(answer.model, answer.choices[0].message.content)

Ctrl-C stops it.
"""


@click.command()
@click.argument("prompt")
@config_option
@click.option("--preference", type=click.Choice(["cheap", "balanced", "best"]))
@click.option("--quality-floor", type=click.FloatRange(0, 1))
@click.option("--max-cost-usd", type=click.FloatRange(min=0))
@click.option("--json", "as_json", is_flag=True, help="the decision as /v1/route gives it")
def route(prompt: str, config: Path | None, as_json: bool, **wishes: Any) -> None:
    """Shows how PROMPT would be routed, and why; nothing is called."""
    import asyncio

    from gateway.preview import decide, print_decision

    if not prompt.strip():
        raise click.BadParameter("the prompt is empty", param_hint="PROMPT")
    decision = asyncio.run(decide(_settings(config), prompt, wishes))
    print_decision(decision, as_json=as_json)


@click.command()
@config_option
@click.pass_context
def doctor(context: click.Context, config: Path | None) -> None:
    """Checks a configuration line by line; each passes or says what to do."""
    import asyncio

    from gateway.doctor import examine, print_findings

    findings = asyncio.run(examine(_settings(config)))
    print_findings(findings)
    if not all(finding.ok for finding in findings):
        context.exit(1)
