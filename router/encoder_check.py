"""Does a faster graph still see the same neighbours? Made-up prompts and the measure.

Knows nothing of graphs or files. The prompts are composed from parts, so that the check needs no data set;
that it judges precisions as real prompts do was tried on 1,000 of them (docs/log.md).
"""

import random

import numpy as np
from numpy.typing import NDArray

SUBJECTS = {
    "science": (
        "photosynthesis in desert plants", "the half-life of carbon-14", "why the sky is blue at noon",
        "entropy in a closed container", "plate tectonics under the Andes", "the orbit of a comet",
        "osmosis through a cell membrane", "how vaccines train the immune system", "superconductors",
        "the greenhouse effect of methane", "dominant and recessive genes", "tides and the phases of the moon",
        "black holes that evaporate", "acid rain on limestone", "the migration of arctic terns",
    ),
    "mathematics": (
        "a train that leaves at noon at 80 km/h", "the sum of the first 40 odd numbers",
        "a triangle with sides 7, 24 and 25", "the derivative of x^3 sin(x)", "three dice that show a total of 10",
        "compound interest of 4% over nine years", "the eigenvalues of a 2x2 matrix",
        "a tank filled by two pipes", "the greatest common divisor of 462 and 1071", "a geometric series",
        "the area between two parabolas", "seating seven guests at a round table", "a fair coin tossed 12 times",
        "prime factors of 3,960", "a recipe for six scaled to fifteen people",
    ),
    "programming": (
        "a Python function that merges two sorted lists", "a race condition in a Go worker pool",
        "an SQL query with three joins", "a regular expression for dates", "a memory leak in a C++ destructor",
        "a React component that renders twice", "unit tests for a parser", "a bash script that rotates logs",
        "binary search over rotated arrays", "a Dockerfile for a Flask service", "git rebase gone wrong",
        "the borrow checker rejecting a closure in Rust", "pagination in a REST endpoint",
        "a cache with least-recently-used eviction", "depth-first search without recursion",
    ),
    "writing": (
        "a farewell letter to a colleague", "a limerick about a lazy cat", "the opening of a detective novel",
        "a toast for a golden wedding", "an apology for a late delivery", "a cover letter for a nurse",
        "a haiku on the first snow", "a product page for a hiking boot", "a bedtime story with a dragon",
        "a speech against littering", "a review of a noisy restaurant", "a scene where two brothers argue",
        "a newsletter for beekeepers", "a slogan for a bicycle shop", "a diary entry from a lighthouse",
    ),
    "society": (
        "the causes of the French Revolution", "how a bill becomes law", "the silk road in the ninth century",
        "inflation and unemployment", "the duties of a landlord", "women's suffrage in New Zealand",
        "the treaty of Westphalia", "copyright on photographs", "the electoral college",
        "trade between Venice and Cairo", "the fall of the Berlin Wall", "free speech and its limits",
        "minimum wage in small towns", "the code of Hammurabi", "why cities grew beside rivers",
    ),
    "living": (
        "a weekly menu for two vegetarians", "a child who will not sleep", "tomatoes with yellow leaves",
        "training for a first half marathon", "a dripping kitchen tap", "a budget on a small pension",
        "a rash after a walk in the woods", "learning to swim at fifty", "what to see in Lisbon in three days",
        "a puppy that chews shoes", "a squeaking bicycle brake", "sourdough that does not rise",
        "back pain from a desk job", "packing for a week in Norway", "a quarrel with a neighbour over a hedge",
    ),
    "business": (
        "a pricing plan for a small gym", "the minutes of a tense board meeting", "churn among subscribers",
        "an invoice that was never paid", "a survey of 200 customers", "a supplier who delivers late",
        "depreciation of a delivery van", "a launch plan for a podcast", "hiring the first salesperson",
        "the break-even point of a bakery", "stock that nobody orders", "a refund policy for online courses",
        "two departments that do not talk", "a pitch to an angel investor", "a tender for street lights",
    ),
}  # fmt: skip
TASKS = (
    "Explain {s} to a ten-year-old.", "What should I know about {s}?", "Give me a short answer about {s}.",
    "I have a question on {s}: what is the most common mistake?", "Write a detailed answer about {s}.",
    "Help me with {s}, step by step.", "Compare {s} with {o}.", "Which of these is true of {s}? Choose one.",
    "Translate this note on {s} into French.", "Summarise what experts say of {s} in three bullet points.",
    "My teacher asked about {s} and I was lost.", "Find the error in this reasoning about {s}.",
    "Is there a link between {s} and {o}?", "Make a quiz of five questions on {s}.",
    "List the pros and cons regarding {s}.", "{s}: where do I begin?", "Rewrite my paragraph about {s} politely.",
    "Act as a patient tutor and discuss {s}.", "What would change for {s} if money were no object?",
    "As JSON with the keys title and body, describe {s}.",
)  # fmt: skip
DETAILS = (
    "", "", "", "", "Keep it under {n} words.", "Show every step of the working.", "Answer with a single letter.",
    "My deadline is in {n} hours.", "Assume that I know nothing.", "Use no jargon, please.",
    "Cite {n} sources if you can.", "I tried {n} times already and failed.", "Finish with a table.",
    "Options: A) {n}, B) {m}, C) both, D) neither.", "Then tell me how {o} fits in.",
    "Someone told me that it takes {n} days, others say {m}.", "The tone should be dry and factual.",
    "Be honest if you are not sure about it.", "Bear in mind that we spoke of {o} before.",
    "The first attempt cost {n} dollars, the second {m}.",
)  # fmt: skip


def sample_prompts(rng: random.Random, count: int) -> list[str]:
    """`count` distinct prompts of one to five sentences, from seven fields."""
    prompts: dict[str, None] = {}
    everything = [subject for field in SUBJECTS.values() for subject in field]
    while len(prompts) < count:
        subject = rng.choice(everything)
        parts = [rng.choice(TASKS), *rng.choices(DETAILS, k=rng.randrange(1, 5))]
        other, n, m = rng.choice(everything), rng.randrange(2, 500), rng.randrange(2, 500)
        text = " ".join(part for part in parts if part).format(s=subject, o=other, n=n, m=m)
        prompts[text[0].upper() + text[1:]] = None
    return list(prompts)


def neighbour_agreement(reference: NDArray[np.float32], candidate: NDArray[np.float32]) -> float:
    """Share of the rows [n, d] whose nearest other row is the same in both; unit rows."""
    return float(np.mean(_nearest(reference) == _nearest(candidate)))


def _nearest(vectors: NDArray[np.float32]) -> NDArray[np.intp]:
    similarity = vectors @ vectors.T
    np.fill_diagonal(similarity, -np.inf)
    nearest: NDArray[np.intp] = similarity.argmax(axis=1)
    return nearest
