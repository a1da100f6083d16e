"""What every scenario is given: the tools, who is measured, and for how long."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import native
import prompts
import servers
from native import Measured, Shape
from report import Figure, judged
from served import AUTHORIZATION
from servers import Server


@dataclass(slots=True)
class Bench:
    """`who` maps direct, barest, litellm and gateway to what runs; who could not start is not in it."""

    programs: dict[str, Path]
    work: Path
    rounds: int
    brevity: float = 1.0  # what the seconds of each run are multiplied with
    who: dict[str, Server] = field(default_factory=dict)
    failed: dict[str, int] = field(default_factory=dict)

    def load(self, who: str, shape: Shape, bodies: Path, log: Path | None = None) -> Measured:
        """One run; counts the answers that failed, by who gave them."""
        shape = Shape(shape.concurrency, max(shape.seconds * self.brevity, 0.3), shape.requests)
        server = self.who[who]
        before = servers.cpu_s(server.pid)
        run = native.load(self.programs["load"], server.port, shape, bodies, headers=(AUTHORIZATION,), log=log)
        run = replace(run, cpu_s=servers.cpu_s(server.pid) - before)
        self.failed[who] = self.failed.get(who, 0) + run.errors
        if run.errors:
            print(f"{who}: {run.errors} failed answers, the first: {run.error}", flush=True)
        return run

    def bodies(self, name: str, lines: Iterable[str]) -> Path:
        return prompts.write_bodies(self.work / f"{name}.bodies", lines)

    def contenders(self, who: Sequence[str], shape: Shape, bodies: Path) -> dict[str, Callable[[int], Measured]]:
        """For `rounds.alternate`: those of `who` that run, each warmed up."""
        present = [name for name in who if name in self.who]
        for name in present:
            self.load(name, Shape(shape.concurrency, min(shape.seconds, 1.0), shape.requests), bodies)
        return {name: lambda _, name=name: self.load(name, shape, bodies) for name in present}  # type: ignore[misc]

    def failures(self) -> Figure:
        return judged(Figure("failed answers of the gateway", self.failed.get("gateway", 0), goal="<= 0"))
