"""From a CSV of your own to a served policy, in a few minutes: `python docs/tutorial.py [FOLDER]`.

Makes a CSV as a team might have it (what three models made of some hundred prompts, graded), and does with it
what you would do with yours: imports it, looks whether it is enough, trains, reads the report, serves the policy
and asks it. Every command is printed before it runs, so that you can take it over. Nothing is called outside this
machine: the models that are served at the end are simulated.
"""

import csv
import json
import random
import shlex
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

COMMAND = Path(sys.executable).with_name("pointsman")
PROMPTS = 150  # of each kind
KINDS = {
    "sums": "A shop sold {a} boxes with {b} pens each and took back {c}. How many pens are out?",
    "code": "Write a Python function that returns the {a} largest of a list after dropping every {b}th item ({c}).",
    "translation": "Translate into Spanish: the {a} trains to the coast leave from platform {b} in {c} minutes.",
    "trivia": "Which river flows past town number {a} on page {b} of the old school atlas, map {c}?",
}
#: model -> USD per million tokens in and out, and how often its answers are right, by kind of prompt
MODELS = {
    "swift": (0.1, 0.4, {"sums": 0.35, "code": 0.25, "translation": 0.90, "trivia": 0.55}),
    "scholar": (0.8, 3.0, {"sums": 0.60, "code": 0.45, "translation": 0.90, "trivia": 0.85}),
    "solver": (2.5, 10.0, {"sums": 0.95, "code": 0.85, "translation": 0.92, "trivia": 0.70}),
}
#: their column -> ours
COLUMNS = {
    "question": "prompt",
    "llm": "model",
    "passed": "score",
    "topic": "domain",
    "tokens_in": "input_tokens",
    "tokens_out": "output_tokens",
}
CONFIGURATION = """\
port: {port}
experts:
{experts}
policy:
  artifact: {artifact}
"""
EXPERT = (
    "  - {{name: {name}, kind: simulated, price: {{input: {input}, output: {output}}}, "
    "ttft_s: 0.01, token_s: 0.0001}}"
)


def graded(path: Path, rng: random.Random) -> None:
    """A CSV with the columns of a team that never heard of this project."""
    with path.open("w", newline="", encoding="utf-8") as file:
        out = csv.writer(file)
        out.writerow(COLUMNS)
        for number in range(PROMPTS * len(KINDS)):
            kind = list(KINDS)[number % len(KINDS)]
            prompt = KINDS[kind].format(a=rng.randrange(2, 90), b=rng.randrange(2, 90), c=number)
            for model, (_, _, right) in MODELS.items():
                passed = int(rng.random() < right[kind])
                out.writerow((prompt, model, passed, kind, len(prompt) // 4, rng.randrange(40, 200)))


def run(*words: object) -> None:
    line = [str(word) for word in words]
    print("\n$ pointsman " + shlex.join(line), flush=True)
    subprocess.run([COMMAND, *line], check=True)


def asked(url: str, prompt: str) -> dict[str, object]:
    body = json.dumps({"model": "auto", "messages": [{"role": "user", "content": prompt}]}).encode()
    request = urllib.request.Request(url, body, {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        found: dict[str, object] = json.load(answer)
        return found


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def served(folder: Path) -> None:
    """Serves the policy on a free port, asks one question of each kind, and stops."""
    port = free_port()
    experts = [EXPERT.format(name=name, input=price[0], output=price[1]) for name, price in MODELS.items()]
    text = CONFIGURATION.format(port=port, experts="\n".join(experts), artifact=folder / "policy")
    configuration = folder / "pointsman.yaml"
    configuration.write_text(text, encoding="utf-8")
    run("route", KINDS["sums"].format(a=3, b=4, c=5), "--config", configuration)
    print(f"\n$ pointsman serve --config {configuration}", flush=True)
    gateway = subprocess.Popen([COMMAND, "serve", "--config", configuration], stdout=subprocess.DEVNULL)
    try:
        ready(f"http://127.0.0.1:{port}/readyz", gateway)
        for kind, form in KINDS.items():
            answer = asked(f"http://127.0.0.1:{port}/v1/chat/completions", form.format(a=7, b=8, c=9))
            print(f"{kind}: answered by {answer['model']}", flush=True)
    finally:
        gateway.terminate()
        gateway.wait(timeout=30)


def ready(url: str, gateway: "subprocess.Popen[bytes]", patience_s: float = 60.0) -> None:
    end = time.monotonic() + patience_s
    while time.monotonic() < end and gateway.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except (urllib.error.URLError, ConnectionError):
            time.sleep(0.1)
    raise SystemExit("the gateway did not become ready")


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    graded(folder / "graded.csv", random.Random(0))
    prices = [f"{model},{price[0]},{price[1]}" for model, price in MODELS.items()]
    header = "model,price_in_per_1m,price_out_per_1m"
    (folder / "prices.csv").write_text("\n".join([header, *prices]) + "\n", encoding="utf-8")
    print(f"Made {folder / 'graded.csv'}: what three models made of {PROMPTS * len(KINDS)} prompts.")
    renamed = [word for theirs, ours in COLUMNS.items() for word in ("--rename", f"{theirs}={ours}")]
    table = folder / "outcomes.parquet"
    run("import", folder / "graded.csv", "--out", table, "--prices", folder / "prices.csv", *renamed)
    run("inspect", table)
    run("train", "--data", table, "--policy", "best", "--out", folder / "policy")
    report = folder / "report.html"
    run("evaluate", "--artifact", folder / "policy", "--data", table, "--report", report)
    served(folder)
    print(f"\nEverything is in {folder}; open {report} in a browser.")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(tempfile.mkdtemp(prefix="pointsman-tutorial-")))
