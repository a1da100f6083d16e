"""Each format in its own layout, made here, becomes the same table of outcomes."""

import json
from pathlib import Path
from typing import Any

import pytest

from router.conversation import query_text
from router.errors import DataError
from training.data import TRAIN, VAL, read_tables
from training.importers import detect, formats, importer
from training.importing import Summary, import_files
from training.outcome_file import Rules
from training.records import RecordFile

pyarrow = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")


def imported(path: Path, rules: Rules | None = None, **options: Any) -> tuple[list[dict[str, Any]], Summary]:
    """The rows that a file becomes, and the summary."""
    out = path.parent / "out" / "table.parquet"
    names = {key: options.pop(key) for key in ("encoding", "trust_pickle", "rename") if key in options}
    summary = import_files([RecordFile(path, **names)], out, rules or Rules(), **options)
    return parquet.read_table(out).to_pylist(), summary


def lines(path: Path, *records: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


ROUTERBENCH = {
    "sample_id": ["maths.1", "maths.2"],
    "prompt": ["['What is two and two?']", "['Count.', 'Count on.']"],
    "eval_name": ["maths", "maths"],
    "small": [1.0, 0.25],
    "large|v2": [0.0, None],
    "small|model_response": ["['four, I should think so']", "['one']"],
    "large|v2|model_response": ["['five']", None],
    "small|total_cost": [0.0001, 0.0002],
    "large|v2|total_cost": [0.01, 0.02],
    "oracle_model_to_route_to": ["small", "no_model_correct"],
}


def routerbench_rows(rows: list[dict[str, Any]]) -> None:
    assert [(row["model"], row["score"]) for row in rows] == [
        ("small", 1.0),
        ("large|v2", 0.0),
        ("small", 0.25),
        ("large|v2", None),
    ]
    assert [row["prompt"] for row in rows[::2]] == ["What is two and two?", "Count.\nCount on."]
    first = rows[0]
    assert (first["query_id"], first["domain"], first["dataset"]) == ("maths.1", "maths", "routerbench")
    assert (first["cost_usd"], first["cost_kind"]) == (0.0001, "given")
    assert first["output_tokens"] == 6  # four characters each


def test_routerbench_csv_becomes_a_row_per_prompt_and_model(tmp_path: Path) -> None:
    import csv

    path = tmp_path / "wide.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(ROUTERBENCH)
        writer.writerows(zip(*ROUTERBENCH.values(), strict=True))
    rows, _ = imported(path)
    routerbench_rows(rows)


def test_routerbench_parquet_becomes_the_same(tmp_path: Path) -> None:
    path = tmp_path / "wide.parquet"
    parquet.write_table(pyarrow.table(ROUTERBENCH), path)
    rows, _ = imported(path)
    routerbench_rows(rows)


def test_a_pickle_is_read_only_where_it_is_trusted(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    path = tmp_path / "routerbench_0shot.pkl"
    pandas.DataFrame(ROUTERBENCH).to_pickle(path)
    with pytest.raises(DataError, match=r"runs whatever program.*--trust-pickle"):
        imported(path)
    rows, _ = imported(path, trust_pickle=True)
    routerbench_rows(rows)


def test_an_untrusted_pickle_runs_nothing(tmp_path: Path) -> None:
    import pickle

    class Payload:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / "ran",)

    path = tmp_path / "table.pkl"
    path.write_bytes(pickle.dumps(Payload()))
    with pytest.raises(DataError, match="pickle"):
        imported(path)
    assert not (tmp_path / "ran").exists()


def test_a_pickle_of_something_else_says_what_it_is(tmp_path: Path) -> None:
    pytest.importorskip("pandas")
    import pickle

    path = tmp_path / "table.pkl"
    path.write_bytes(pickle.dumps({"prompt": ["a"]}))
    with pytest.raises(DataError, match="holds dict, expected a pandas table"):
        imported(path, trust_pickle=True)


def test_routellm_responses_take_the_domain_from_the_file_name(tmp_path: Path) -> None:
    path = tmp_path / "mmlu_anatomy.csv"
    path.write_text("prompt,weak/model,strong\nWhich bone?,False,True\nWhich nerve?,True,True\n")
    rows, summary = imported(path)
    assert summary.formats == {str(path): "routellm"}
    assert [(row["model"], row["score"], row["domain"]) for row in rows] == [
        ("weak/model", 0.0, "anatomy"),
        ("strong", 1.0, "anatomy"),
        ("weak/model", 1.0, "anatomy"),
        ("strong", 1.0, "anatomy"),
    ]


def test_routellm_answers_beside_the_scores_give_lengths_and_no_models(tmp_path: Path) -> None:
    path = tmp_path / "gsm8k_responses.csv"
    path.write_text(
        "prompt,weak,strong,weak_response,strong_response\nHow many?,True,False,twelve characters,seven\n"
    )
    rows, _ = imported(path)
    assert [(row["model"], row["output_tokens"]) for row in rows] == [("weak", 4), ("strong", 1)]


def test_battles_become_judgments_with_their_first_turn(tmp_path: Path) -> None:
    path = tmp_path / "battles.csv"
    path.write_text(
        "id,model_a,model_b,prompt,response_a,response_b,winner_model_a,winner_model_b,winner_tie\n"
        '1,x,y,"[""First?"", ""Then?""]",[],[],1,0,0\n'
        '2,x,y,"[""Else?""]",[],[],0,1,0\n'
        '3,y,x,"[""Even?""]",[],[],0,0,1\n'
        '4,x,x,"[""Alone?""]",[],[],1,0,0\n'
    )
    rows, summary = imported(path)
    assert [(row["prompt"], row["model_a"], row["model_b"], row["winner"]) for row in rows] == [
        ("First?", "x", "y", "model_a"),
        ("Else?", "x", "y", "model_b"),
        ("Even?", "y", "x", "tie"),
    ]
    assert summary.kind == "pairs"
    assert summary.skipped == {"battles of a model against itself": 1}
    assert {"split", "domain"} <= set(rows[0])


@pytest.mark.parametrize(
    ("said", "winner"),
    [("model_b", "model_b"), ("tie (bothbad)", "tie"), ("both_bad", "tie"), ("gpt", "model_a")],
)
def test_a_winner_is_told_in_every_way_that_arenas_tell_it(tmp_path: Path, said: str, winner: str) -> None:
    turns = [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "So."}]
    battle = {"question_id": "q", "model_a": "gpt", "model_b": "llama", "winner": said, "conversation_a": turns}
    rows, _ = imported(lines(tmp_path / "battles.jsonl", battle))
    assert [(row["prompt"], row["winner"], row["query_id"]) for row in rows] == [("Why?", winner, "q")]


def test_an_unknown_winner_names_row_and_column(tmp_path: Path) -> None:
    path = tmp_path / "battles.csv"
    path.write_text("model_a,model_b,prompt,winner\nx,y,Why?,model_a\nx,y,How?,nobody\n")
    with pytest.raises(DataError, match=r"battles\.csv, row 2, column 'winner': 'nobody' is no winner"):
        imported(path)


def test_llmrouter_lines_carry_tokens_latency_and_task(tmp_path: Path) -> None:
    record = {
        "task_name": "gsm8k",
        "query": "How many apples?",
        "ground_truth": "2",
        "metric": "GSM8K",
        "choices": None,
        "task_id": None,
        "model_name": "small-8b",
        "response": "Two.",
        "token_num": 453,
        "input_tokens": 449,
        "output_tokens": 4,
        "response_time": 1.5,
        "performance": 0.5,
        "embedding_id": 42,
        "user_id": None,
    }
    ((row,), _) = imported(lines(tmp_path / "routing.jsonl", record))
    assert (row["prompt"], row["model"], row["score"], row["domain"]) == (
        "How many apples?",
        "small-8b",
        0.5,
        "gsm8k",
    )
    assert (row["query_id"], row["input_tokens"], row["output_tokens"], row["latency_s"]) == ("42", 449, 4, 1.5)
    assert row["cost_usd"] is None


@pytest.mark.parametrize("name", ["small", None])
def test_embedllm_tables_may_name_models_or_number_them(tmp_path: Path, name: str | None) -> None:
    columns = [
        "prompt_id",
        "model_id",
        "category_id",
        "label",
        "prompt",
        *(["model_name"] if name else []),
        "category",
    ]
    values = ["3", "17", "2", "1", "Is it?", *([name] if name else []), "mmlu"]
    path = tmp_path / "train.csv"
    path.write_text(f"{','.join(columns)}\n{','.join(values)}\n")
    ((row,), _) = imported(path)
    assert (row["model"], row["score"], row["query_id"], row["domain"]) == (name or "model-17", 1.0, "3", "mmlu")


def test_routerarena_predictions_are_outcomes_of_the_chosen_and_the_other_models(tmp_path: Path) -> None:
    entry = {
        "global index": "ArcMMLU_98",
        "prompt": "Which of these?",
        "prediction": "flash",
        "generated_result": {
            "generated_answer": "A",
            "success": True,
            "token_usage": {"input_tokens": 101, "output_tokens": 66, "total_tokens": 167},
            "provider": "p",
            "error": None,
        },
        "cost": 0.002,
        "accuracy": 1.0,
        "for_optimality": False,
    }
    failed = entry | {"prediction": "haiku", "generated_result": {"success": False}, "accuracy": None, "cost": None}
    unjudged = entry | {"prediction": "nano", "accuracy": None, "for_optimality": True}
    path = tmp_path / "router.json"
    path.write_text(json.dumps([entry, failed, unjudged], indent=2))
    rows, summary = imported(path)
    assert [(row["model"], row["score"]) for row in rows] == [("flash", 1.0), ("nano", None)]
    first = rows[0]
    assert (first["domain"], first["cost_usd"]) == ("ArcMMLU", 0.002)
    assert (first["input_tokens"], first["output_tokens"]) == (101, 66)
    assert summary.skipped == {"calls that failed": 1}


def test_routerarena_cached_results_are_outcomes_of_one_model(tmp_path: Path) -> None:
    record = {
        "global_index": "AIME_112",
        "question": "Find the sum.",
        "llm_selected": "haiku",
        "generated_answer": "984",
        "token_usage": {"input_tokens": 349, "output_tokens": 120},
        "success": True,
        "evaluation_result": {"score": 0.0, "metric": "math_metric", "inference_cost": 0.0002},
    }
    ((row,), summary) = imported(lines(tmp_path / "haiku.jsonl", record))
    assert (row["model"], row["score"], row["cost_usd"], row["domain"]) == ("haiku", 0.0, 0.0002, "AIME")
    assert any("only one model" in warning for warning in summary.warnings())


WHY = "Why is the sky blue at noon and red in the evening, and never green anywhere in between?"
CHAT = {"model": "auto", "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": WHY}]}
ANSWER = {
    "id": "chatcmpl-1",
    "model": "small",
    "choices": [{"message": {"role": "assistant", "content": "So."}}],
    "usage": {"prompt_tokens": 12, "completion_tokens": 3},
}


@pytest.mark.parametrize(
    "record",
    [
        {"request": CHAT, "response": ANSWER, "latency_ms": 800, "feedback": "up", "cost_usd": 0.01},
        {"request": json.dumps(CHAT), "response": json.dumps(ANSWER), "latency_s": 0.8, "score": 1, "cost": 0.01},
        {
            "request": {"url": "/v1", "body": CHAT},
            "response": {"status": 200, "body": ANSWER},
            "response_time": 0.8,
            "metadata": {"feedback": {"value": 1}},
            "cost": 0.01,
        },
        {
            "id": "chatcmpl-1",
            "model": "small",
            "messages": CHAT["messages"],
            "response": {"choices": []},
            "prompt_tokens": 12,
            "completion_tokens": 3,
            "response_cost": 0.01,
            "startTime": 10.0,
            "endTime": 10.8,
            "status": "success",
            "metadata": {"score": 1.0},
        },
        {
            **CHAT,
            "id": "chatcmpl-1",
            "model": "small",
            "usage": ANSWER["usage"],
            "latency": 0.8,
            "rating": True,
            "cost": 0.01,
        },
    ],
    ids=["pair", "pair as text", "pair in bodies", "litellm", "request with usage"],
)
def test_an_openai_style_call_is_read_however_it_was_logged(tmp_path: Path, record: dict[str, Any]) -> None:
    ((row,), _) = imported(lines(tmp_path / "log.jsonl", record))
    assert (row["prompt"], row["model"], row["score"], row["query_id"]) == (WHY, "small", 1.0, "chatcmpl-1")
    assert (row["input_tokens"], row["output_tokens"], row["cost_usd"]) == (12, 3, 0.01)
    assert row["latency_s"] == pytest.approx(0.8)


def test_the_prompt_of_a_chat_is_what_the_router_embeds_of_it(tmp_path: Path) -> None:
    turns = [("user", "Name a river."), ("assistant", "The Rhine."), ("user", "And a longer one?")]
    messages = [{"role": role, "content": text} for role, text in turns]
    call = {"request": {"model": "auto", "messages": messages}, "response": ANSWER}
    ((row,), _) = imported(lines(tmp_path / "log.jsonl", call))
    assert row["prompt"] == query_text(messages)


def test_failed_calls_and_calls_without_text_are_counted_not_imported(tmp_path: Path) -> None:
    path = lines(
        tmp_path / "log.jsonl",
        {"request": CHAT, "response": ANSWER},
        {"request": CHAT, "response": {"error": {"message": "no"}}},
        {"request": CHAT, "response": {"status_code": 503, "body": None}},
        {"request": {"model": "m", "messages": []}, "response": ANSWER | {"id": "2"}},
    )
    rows, summary = imported(path)
    assert len(rows) == 1
    assert summary.skipped == {"calls that failed": 2, "calls without a text": 1}
    assert any("no row has a score" in warning for warning in summary.warnings())


def test_a_call_that_was_logged_twice_counts_once(tmp_path: Path) -> None:
    call = {"request": CHAT, "response": ANSWER}
    rows, summary = imported(
        lines(tmp_path / "log.jsonl", call, call, {**call, "response": ANSWER | {"id": "other"}})
    )
    assert [row["query_id"] for row in rows] == ["chatcmpl-1", "other"]
    assert summary.counts.same_ids == 1


def decision(**fields: Any) -> dict[str, Any]:
    return {"decision_id": "d1", "expert": "small", "propensity": 0.25, "cost_usd": 0.01, "ttft_s": 0.3} | fields


def test_the_decision_log_keeps_propensity_and_first_byte_time(tmp_path: Path) -> None:
    path = lines(
        tmp_path / "log.jsonl",
        decision(prompt="Why?", feedback="down", ok=True),
        decision(decision_id="d2", prompt="How?"),
        decision(decision_id="d3", prompt="When?", ok=False),
        decision(decision_id="d4"),
        decision(decision_id="d5", prompt="Who?", expert="cache:semantic", cost_usd=0),
    )
    rows, summary = imported(path)
    assert [(row["query_id"], row["score"], row["propensity"], row["ttft_s"]) for row in rows] == [
        ("d1", 0.0, 0.25, 0.3),
        ("d2", None, 0.25, 0.3),
    ]
    assert summary.skipped == {
        "calls that failed": 1,
        "calls without prompt and vector": 1,
        "answers out of the cache": 1,
    }


def test_a_log_without_prompts_gives_its_vectors(tmp_path: Path) -> None:
    path = tmp_path / "log.parquet"
    table = [decision(embedding=[0.6, 0.8], score=1.0), decision(decision_id="d2", embedding=[0.6, 0.8], score=0.0)]
    parquet.write_table(pyarrow.Table.from_pylist(table), path)
    rows, summary = imported(path)
    assert [row["prompt"] for row in rows] == [None, None]
    assert rows[0]["embedding"] == pytest.approx([0.6, 0.8])
    assert rows[0]["split"] == rows[1]["split"]
    assert summary.counts.prompts == 1
    assert "2 rows have a vector and no prompt" in summary.warnings()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"propensity": 0.0}, r"column 'propensity': 0 is not a probability"),
        ({"propensity": 1.5}, r"column 'propensity': 1.5 is not a probability"),
        ({"embedding": ["x"]}, r"column 'embedding': expected a list of finite numbers"),
        ({"feedback": "splendid"}, r"column 'feedback': expected a number, found 'splendid'"),
        ({"cost_usd": -1}, r"column 'cost_usd': -1 is not an amount"),
    ],
)
def test_a_wrong_decision_names_row_and_column(tmp_path: Path, fields: dict[str, Any], message: str) -> None:
    path = lines(tmp_path / "log.jsonl", decision(prompt="Why?"), decision(prompt="How?", **fields))
    with pytest.raises(DataError, match=rf"log\.jsonl, row 2, {message}"):
        imported(path)


def test_vectors_of_different_lengths_are_refused(tmp_path: Path) -> None:
    path = lines(tmp_path / "log.jsonl", decision(embedding=[1.0, 0.0]), decision(embedding=[1.0]))
    with pytest.raises(DataError, match=r"row 2, column 'embedding': 1 numbers, others have 2"):
        imported(path)


def test_a_table_of_ones_own_is_read_under_its_own_names(tmp_path: Path) -> None:
    path = tmp_path / "own.csv"
    path.write_text("question;llm;grade;domain\nWhy?;small;0.5;law\n")
    rows, _ = imported(path, rename={"question": "prompt", "llm": "model", "grade": "score"})
    assert [(row["prompt"], row["model"], row["score"], row["domain"]) for row in rows] == [
        ("Why?", "small", 0.5, "law")
    ]


def test_what_is_imported_is_what_training_reads(tmp_path: Path) -> None:
    path = tmp_path / "own.csv"
    rows = [f"prompt {i},{model},{i % 2}" for i in range(200) for model in ("small", "large")]
    path.write_text("prompt,model,score\n" + "\n".join(rows) + "\n")
    written, summary = imported(path)
    table = read_tables([path.parent / "out" / "table.parquet"])
    assert table.outcomes.experts == ("small", "large")
    assert dict(zip(table.outcomes.queries.prompts or (), table.splits, strict=True)) == {
        row["prompt"]: row["split"] for row in written
    }
    assert set(summary.counts.splits) == {TRAIN, VAL}


def test_a_prompt_falls_into_one_split_in_whatever_file_it_comes(tmp_path: Path) -> None:
    first, second = tmp_path / "one.csv", tmp_path / "two.csv"
    for path, model in ((first, "small"), (second, "large")):
        path.write_text("prompt,model,score\n" + "".join(f"prompt {i},{model},1\n" for i in range(50)))
    assert [row["split"] for row in imported(first)[0]] == [row["split"] for row in imported(second)[0]]


def test_every_format_describes_itself_and_is_found_by_its_file() -> None:
    known = [importer(name) for name in formats()]
    assert [one.name for one in known] == formats()
    assert all(one.summary for one in known)


def test_an_unknown_format_lists_those_that_there_are(tmp_path: Path) -> None:
    path = tmp_path / "own.csv"
    path.write_text("prompt,model,score\na,b,1\n")
    with pytest.raises(DataError, match=r"no format is called 'excel'; there are: arena, .*table"):
        imported(path, format_name="excel")


def test_a_file_of_no_known_format_lists_its_columns(tmp_path: Path) -> None:
    path = tmp_path / "own.csv"
    path.write_text("question,answer\na,b\n")
    with pytest.raises(DataError, match=r"no format that is known.*question, answer.*--rename"):
        detect(RecordFile(path))


def test_a_table_without_scores_is_told_what_it_lacks(tmp_path: Path) -> None:
    path = tmp_path / "own.csv"
    path.write_text("prompt,model\na,b\n")
    with pytest.raises(DataError, match="The nearest is table, for which it lacks score"):
        detect(RecordFile(path))


def test_a_file_that_two_formats_recognise_is_not_guessed(tmp_path: Path) -> None:
    path = lines(tmp_path / "log.jsonl", decision(prompt="Why?", model="small", score=1))
    with pytest.raises(DataError, match="could be decision_log or table: say which with --format"):
        detect(RecordFile(path))


def test_a_forced_format_names_the_column_that_is_missing(tmp_path: Path) -> None:
    path = tmp_path / "own.csv"
    path.write_text("prompt,model\na,b\n")
    with pytest.raises(
        DataError, match=r"the column 'score' of the format table is missing; there are: prompt, model"
    ):
        imported(path, format_name="table")


def test_judgments_and_outcomes_do_not_go_into_one_file(tmp_path: Path) -> None:
    table, battles = tmp_path / "own.csv", tmp_path / "battles.csv"
    table.write_text("prompt,model,score\na,b,1\n")
    battles.write_text("model_a,model_b,prompt,winner\nx,y,Why?,tie\n")
    with pytest.raises(DataError, match=r"holds judgments \(arena\).*outcomes \(table\): import them apart"):
        import_files([RecordFile(table), RecordFile(battles)], tmp_path / "out.parquet", Rules())
