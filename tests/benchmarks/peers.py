"""Who the gateway is held against, each in a virtual environment of its own under `build/`."""

import json
import subprocess
import venv
from pathlib import Path

from native import SOURCES, BenchError
from report import BENCH_DIR
from servers import LOOPBACK, Start, free_port

LITELLM = ("litellm[proxy]==1.106.0",)
BAREST = ("fastapi", "aiohttp", "orjson", "uvicorn", "uvloop", "httptools")


def environment(name: str, requirements: tuple[str, ...]) -> Path:
    """The `bin` folder of `build/bench/NAME`, installed on first use. Raises `BenchError` if it cannot be."""
    home = BENCH_DIR / name
    stamp = home / ".installed"
    wanted = "\n".join(requirements)
    if not stamp.exists() or stamp.read_text() != wanted:
        print(f"installing {' '.join(requirements)} into {home.relative_to(BENCH_DIR.parents[1])}", flush=True)
        venv.create(home, clear=True, with_pip=True)
        pip = [str(home / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        run = subprocess.run([*pip, *requirements], capture_output=True, text=True)
        if run.returncode:
            raise BenchError(f"{name} could not be installed: {run.stderr.strip()[-400:]}")
        stamp.write_text(wanted)
    return home / "bin"


def barest(upstream_port: int) -> Start:
    port = free_port()
    command = [
        *(str(environment("barest", BAREST) / "python"), "-m", "uvicorn", "barest:app"),
        *("--app-dir", str(SOURCES), "--host", LOOPBACK, "--port", str(port)),
        *("--no-access-log", "--log-level", "warning", "--loop", "uvloop", "--http", "httptools"),
    ]
    return Start("barest", command, port, "/readyz", {"UPSTREAM": f"http://{LOOPBACK}:{upstream_port}/v1"})


def litellm(upstream_port: int, models: tuple[str, ...], folder: Path) -> Start:
    """LiteLLM's proxy: one worker, no database, quiet, and without a key, which spares it the check."""
    port = free_port()
    parameters = {"api_base": f"http://{LOOPBACK}:{upstream_port}/v1", "api_key": "upstream-key"}
    entries = [{"model_name": m, "litellm_params": {"model": f"openai/{m}", **parameters}} for m in models]
    config = folder / "litellm.yaml"
    config.write_text(json.dumps({"model_list": entries}), encoding="utf-8")  # JSON is YAML
    command = [
        *(str(environment("litellm", LITELLM) / "litellm"), "--config", str(config)),
        *("--host", LOOPBACK, "--port", str(port), "--num_workers", "1", "--telemetry", "False"),
    ]
    env = {
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",  # else it fetches one
        "LITELLM_LOG": "ERROR",
        "LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY": "true",  # it listens on loopback only
    }
    return Start("litellm", command, port, "/health/liveliness", env)
