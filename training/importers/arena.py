"""Battles: two models' answers to a prompt and which of them was preferred. They become judgments, not outcomes.

`model_a`, `model_b`, and either `winner` (`model_a`, `model_b`, `tie`, `tie (bothbad)`, `both_bad`, or a model's
name) or `winner_model_a`, `winner_model_b`, `winner_tie` as 0 and 1. The prompt is in `prompt` (a text, or a list
of the user's turns) or in `conversation_a` (messages); the first turn is taken, as RouteLLM does. Both bad counts
as a tie. Sources: the data cards of lmsys/chatbot_arena_conversations, lmsys/lmsys-arena-human-preference-55k,
lmarena-ai/arena-human-preference-140k and routellm/gpt4_judge_battles; github.com/lm-sys/RouteLLM,
`routellm/routers/similarity_weighted/utils.py` and
`routellm/routers/matrix_factorization/train_matrix_factorization.py`.
"""

import json
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

from router.conversation import query_text
from training.importers.base import MODEL_A, MODEL_B, TIE, Importer, Judgment, Skipped, first_of, has, listed
from training.records import Record

WINNERS = {
    "model_a": MODEL_A,
    "model_b": MODEL_B,
    **dict.fromkeys(("tie", "tie (bothbad)", "tie(all bad)", "both_bad", "bothbad"), TIE),
}
FLAGS = {"winner_model_a": MODEL_A, "winner_model_b": MODEL_B, "winner_tie": TIE}


class Arena(Importer):
    summary: ClassVar[str] = "battles of two models with a winner (Chatbot Arena, RouteLLM's judge) -> pairs"
    needed: ClassVar[tuple[str, ...]] = (MODEL_A, MODEL_B)
    judges: ClassVar[bool] = True

    def recognises(self, head: Sequence[Record]) -> bool:
        return has(head, MODEL_A, MODEL_B) and (has(head, "winner") or has(head, *FLAGS))

    def read(self, record: Record) -> Iterator[Judgment | Skipped]:
        model_a, model_b = record.needed(MODEL_A), record.needed(MODEL_B)
        if model_a == model_b:
            yield Skipped("battles of a model against itself")
            return
        yield Judgment(
            record,
            _prompt(record),
            model_a,
            model_b,
            _winner(record, model_a, model_b),
            query_id=first_of(record, "question_id", "id"),
            domain=first_of(record, "domain", "category"),
        )


def _winner(record: Record, model_a: str, model_b: str) -> str:
    if "winner" in record.fields:
        said = record.needed("winner")
        found = WINNERS.get(said.strip().lower()) or {model_a: MODEL_A, model_b: MODEL_B}.get(said)
        if found is None:
            raise record.error(
                "winner", f"{said[:40]!r} is no winner; there are: {', '.join(WINNERS)}, or a model's name"
            )
        return found
    won = [side for column, side in FLAGS.items() if record.number(column) == 1]
    if len(won) != 1:
        raise record.error("winner_model_a", f"expected a 1 in one of {', '.join(FLAGS)}, found it in {len(won)}")
    return won[0]


def _prompt(record: Record) -> str:
    value: Any = record.fields.get("prompt")
    if isinstance(value, list):
        turns = [turn for turn in value if isinstance(turn, str)]
    elif value is not None:
        turns = listed(record.needed("prompt"))
    else:
        turns = _conversation(record, "conversation_a")
    first = turns[0].strip() if turns else ""
    if not first:
        raise record.error("prompt" if value is not None else "conversation_a", "holds no turn of a user")
    return first


def _conversation(record: Record, column: str) -> list[str]:
    messages: Any = record.fields.get(column)
    if isinstance(messages, str):
        try:
            messages = json.loads(messages)
        except ValueError as error:
            raise record.error(column, "is not JSON; take the data set's Parquet files") from error
    if not isinstance(messages, list):
        return []
    users = (message for message in messages if isinstance(message, dict) and message.get("role") == "user")
    return [text for message in users if (text := query_text([message]))]
