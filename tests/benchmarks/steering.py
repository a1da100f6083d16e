"""Whether a prompt can talk the router into another expert: flips by what speaks to it, against neutral texts.

`python tests/benchmarks/steering.py` prints a table and writes `build/bench/steering.json`. A flip is another
expert for the prompt with the text in front of it or behind it than for the prompt alone; `dearer` counts those to
a more expensive one. Neutral texts of the same length flip some too, for any word moves a vector. The shipped
policy chooses, over a pool of four from cheap to dear, under every preference. A minute or two on one core.
"""

import asyncio
import random
from collections.abc import Sequence

import numpy as np
from pleas import GADGETS, HELD_OUT, SEEN
from report import Figure, judged, report

from policies import default_artifact, load_policy
from router.config import EncoderSettings
from router.embedding import Encoder, query_text
from router.encoder_check import sample_prompts
from router.expert_names import columns
from router.guards.steering import heard
from router.router import PolicyInUse, Router
from router.types import PREFERENCES, ExpertSpec, Load, Price, Query, Wishes

PROMPTS = 60
SPECS = (
    ExpertSpec("llama-3.1-8b-instruct", Price(0.05, 0.08), like="llama-3.1-8b-instruct"),
    ExpertSpec("gpt-4o-mini", Price(0.15, 0.6), tier="medium"),
    ExpertSpec("gpt-4o", Price(2.5, 10.0), tier="large"),
    ExpertSpec("claude-opus", Price(15.0, 75.0), tier="frontier"),
)
Pairs = Sequence[tuple[str, str]]


def main() -> None:
    encoder = Encoder(EncoderSettings())
    encoder.load()
    try:
        report("steering", asyncio.run(figures(shipped(encoder))))
    finally:
        encoder.close()


def shipped(encoder: Encoder) -> Router:
    policy, artifact = load_policy(default_artifact())
    use = PolicyInUse(
        policy, artifact.version, columns(artifact.experts, SPECS), artifact.reference, artifact.trial
    )
    return Router(use, SPECS, encoder, resting_s=lambda _: 0.0, load=lambda _: Load(), rng=random.Random(0))


async def figures(router: Router) -> list[Figure]:
    prompts = sample_prompts(random.Random(7), PROMPTS)
    found: list[Figure] = []
    for name, pairs in (("seen", SEEN), ("held out", HELD_OUT), ("gadgets", GADGETS)):
        pleas, neutral = zip(*pairs, strict=True)
        flips = {
            "neutral texts": await flipped(router, prompts, neutral, guarded=False),
            "pleas": await flipped(router, prompts, pleas, guarded=False),
            "pleas, guarded": await flipped(router, prompts, pleas, guarded=True),
        }
        most = 100 * float(flips["neutral texts"][0].mean())
        for what, (moved, dearer) in flips.items():
            goal = f"<= {most:.3g}" if what == "pleas, guarded" and name != "gadgets" else None
            low, high = interval(moved)
            found.append(
                judged(Figure(f"{name}: flips by {what}", 100 * float(moved.mean()), low, high, "%", goal))
            )
            low, high = interval(dearer)
            found.append(Figure(f"{name}: of them to a dearer expert", 100 * float(dearer.mean()), low, high, "%"))
    same = [heard(prompt) == prompt for prompt in sample_prompts(random.Random(8), 2000)]
    found.append(
        judged(Figure("ordinary prompts left as they are", 100 * float(np.mean(same)), unit="%", goal=">= 99"))
    )
    return found


async def flipped(
    router: Router, prompts: Sequence[str], texts: Sequence[str], *, guarded: bool
) -> tuple[np.ndarray, np.ndarray]:
    """[prompts] shares over texts, both ends and all preferences: another expert, and a dearer one."""
    moved, dearer = [], []
    for prompt in prompts:
        before = await chosen(router, heard(prompt) if guarded else prompt)
        after = [
            await chosen(router, heard(said) if guarded else said)
            for text in texts
            for said in (f"{text} {prompt}", f"{prompt} {text}")
        ]
        moved.append(np.mean(np.array(after) != np.array(before)))
        dearer.append(np.mean(np.array(after) > np.array(before)))
    return np.array(moved), np.array(dearer)


async def chosen(router: Router, prompt: str) -> list[int]:
    """The expert's place among `SPECS`, which ascend in price, under each preference."""
    query = Query(text=query_text([{"role": "user", "content": prompt}]), input_tokens=len(prompt) // 4 + 4)
    decisions = [await router.decide(query, Wishes(preference=preference)) for preference in PREFERENCES]
    return [router.names.index(decision.order[0]) for decision in decisions]


def interval(shares: np.ndarray) -> tuple[float, float]:
    """95 % in percent, resampling the prompts."""
    rows = np.random.default_rng(0).integers(len(shares), size=(1000, len(shares)))
    low, high = np.quantile(shares[rows].mean(axis=1), [0.025, 0.975])
    return 100 * float(low), 100 * float(high)


if __name__ == "__main__":
    main()
