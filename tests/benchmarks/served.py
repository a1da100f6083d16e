"""The gateway under test: everything the issue asks for switched on, one process, its own folder."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from servers import LOOPBACK, Start, free_port

KEY = "sk-bench-0123456789abcdef"
AUTHORIZATION = f"authorization: Bearer {KEY}"
PLAIN, PACED = "bench-c50", "bench-c50-p20"
PACE_MS, CHUNKS = 20, 50


@dataclass(frozen=True, slots=True)
class Place:
    """Where a gateway keeps its things. `cache_dir` holds the encoder's exported graph; share it to start warm."""

    folder: Path
    cache_dir: Path


def endpoints(upstream_port: int) -> list[dict[str, Any]]:
    """Two experts for the streams and one of each tier, all at the same upstream."""
    tiers = {"small": 0.1, "medium": 0.6, "large": 2.0, "frontier": 8.0}
    named = [(PLAIN, "medium", PLAIN), (PACED, "medium", PACED)]
    named += [(f"bench-{tier}", tier, PLAIN) for tier in tiers]
    return [
        {
            "name": name,
            "kind": "endpoint",
            "url": f"http://{LOOPBACK}:{upstream_port}/v1",
            "model": model,
            "tier": tier,
            "price": {"input": tiers[tier], "output": 4 * tiers[tier]},
        }
        for name, tier, model in named
    ]


def gateway(
    name: str, experts: list[dict[str, Any]], place: Place, *, artifact: str = "default", bound_s: float = 120.0
) -> Start:
    """Writes the configuration: a key to pass, metering and metrics as always, the embedded ledger."""
    place.folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    key_file = place.folder / "key"
    key_file.write_text(KEY, encoding="utf-8")
    settings = {
        "host": LOOPBACK,
        "port": port,
        "experts": experts,
        "policy": {"artifact": artifact},
        "encoder": {"cache_dir": str(place.cache_dir)},
        "ledger": {"url": "embedded", "data_dir": str(place.folder / "ledger")},
        "auth": {"keys": [{"name": "bench", "file": str(key_file)}]},
    }
    config = place.folder / f"{name}.yaml"
    config.write_text(yaml.safe_dump(settings, sort_keys=False), encoding="utf-8")
    command = [str(Path(sys.executable).with_name("pointsman")), "serve", "--config", str(config)]
    return Start(name, command, port, "/readyz", {}, bound_s)
