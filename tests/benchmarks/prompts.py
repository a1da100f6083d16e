"""Request bodies for the load generator: prompts that no cache has seen, and one that every cache has.

A prompt is drawn word by word from a list, since what the encoder costs depends on the number of tokens and
not on their sense. Every word here is one token of BERT's vocabulary, so 62 words and the two marks the
encoder adds are 64 tokens; two prompts of 62 words alike do not happen.
"""

import json
import random
from collections.abc import Iterable, Iterator
from pathlib import Path

TOKENS = 64
VOCABULARY = (
    "time year people way day man thing woman life child world school state family student group country problem "
    "hand part place case week company system program question work government number night point home water room "
    "mother area money story fact month lot right study book eye job word business issue side kind head house "
    "service friend father power hour game line end member law car city community name president team minute idea "
    "kid body information back parent face others level office door health person art war history party result "
    "change morning reason research girl guy moment air teacher force education foot boy age policy music market "
    "sense nation plan college interest death experience effect use class control field development role effort "
    "rate heart drug show leader light voice wife police mind price report decision son view relationship town "
    "road arm difference value building action season society tax director position player record paper space "
    "ground form event official matter centre couple site project activity star table need court oil situation "
    "cost industry figure street image phone data picture practice piece land product doctor wall patient worker "
    "news test movie north love support technology green red blue large small early young important few public "
    "bad same able good new first last long great little own other old high different next"
)
WORDS = VOCABULARY.split()


def unseen(count: int, seed: int) -> list[str]:
    """`count` prompts of about 64 tokens each; other seeds give other prompts."""
    rng = random.Random(seed)
    return [" ".join(rng.choices(WORDS, k=TOKENS - 2)) for _ in range(count)]


def body(model: str, prompt: str, *, stream: bool = False) -> str:
    message = {"role": "user", "content": prompt}
    extra = {"stream": True} if stream else {}
    return json.dumps({"model": model, "messages": [message], "temperature": 0.2, "max_tokens": 256} | extra)


def write_bodies(path: Path, lines: Iterable[str]) -> Path:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def in_turn(prompts: Iterable[str], *models: str) -> Iterator[str]:
    """Each prompt to every model in turn, so that the models' requests interleave."""
    return (body(model, prompt) for prompt in prompts for model in models)
