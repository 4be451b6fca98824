"""Evaluation of the real base GGUF through llama.cpp."""

import json
import math

import numpy as np
import pytest

from fine_tuning.config import Evaluation as Settings
from fine_tuning.engines.vocabulary import Vocabulary
from fine_tuning.errors import DataError, EngineError
from fine_tuning.evaluation import metrics
from fine_tuning.evaluation.comparison import Comparison
from fine_tuning.evaluation.evaluator import evaluate
from fine_tuning.evaluation.served_model import Ask, ServedModel
from fine_tuning.evaluation.test_set import EvaluationSet, Prompt, Question, Reader, build_test_set, held_out_rows

PROMPT = "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n"
ANSWER = "The capital of France is Paris."


@pytest.fixture(scope="module")
def model(base_gguf):
    model = ServedModel(base_gguf, context=1200)
    yield model
    model.close()


@pytest.fixture(scope="module")
def vocabulary(base_gguf):
    return Vocabulary(base_gguf)


def row(vocabulary, prompt=PROMPT, answer=ANSWER):
    head, tail = vocabulary.encode(prompt), [*vocabulary.encode(answer), 2]
    return {"id": "a", "input_ids": head + tail, "trained": [0] * len(head) + [1] * len(tail)}


def test_logprobs_are_those_of_the_model_asked_token_by_token(model, vocabulary, base_gguf):
    """The reference: llama-cpp-python's own eval with all logits, one prefix at a time."""
    from llama_cpp import Llama

    record = row(vocabulary)
    ids = record["input_ids"]
    targets = [index for index, flag in enumerate(record["trained"]) if flag]
    found, _ = model.logprobs(ids, targets)
    llama = Llama(str(base_gguf), n_ctx=64, verbose=False)
    for target, logprob in list(zip(targets, found, strict=True))[::3]:
        llama.reset()
        llama._ctx.kv_cache_clear()
        llama.eval(ids[:target])
        logits = np.array(llama._ctx.get_logits_ith(-1)[: llama.n_vocab()], dtype=np.float64)
        expected = logits[ids[target]] - logits.max() - math.log(np.exp(logits - logits.max()).sum())
        assert logprob == pytest.approx(expected, abs=0.02)


@pytest.mark.slow
def test_rows_longer_than_one_decode_batch_are_scored_as_a_whole(model, vocabulary):
    filler = vocabulary.encode("The quick brown fox jumps over the lazy dog. " * 70)
    ids = (filler + row(vocabulary)["input_ids"])[:1100]
    logprobs, hits = model.logprobs(ids, list(range(1, len(ids))))
    assert len(logprobs) == len(hits) == len(ids) - 1
    assert sum(hits[200:600]) > 390  # a text that repeats is foreseen


def test_a_text_the_model_knows_has_lower_perplexity_than_the_same_words_shuffled(model, vocabulary):
    known, shuffled = row(vocabulary), row(vocabulary, answer="Paris is France. capital of the The")
    values = []
    for record in (known, shuffled):
        targets = [index for index, flag in enumerate(record["trained"]) if flag]
        values.append(metrics.perplexity(model.logprobs(record["input_ids"], targets)[0]))
    assert 1 < values[0] < 3 < values[1]


def test_greedy_answers_end_by_themselves_and_without_control_tokens(model, vocabulary):
    tokens, ended = model.answer(vocabulary.encode(PROMPT), 64)
    assert ended
    assert "Paris" in model.text(tokens)
    assert "<|im_end|>" not in vocabulary.decode(tokens, special=True)


def test_many_prompts_at_once_get_the_answers_that_each_gets_alone(model, vocabulary):
    prompts = [vocabulary.encode(PROMPT.replace("France", country)) for country in ("France", "Japan", "Italy")]
    together = [model.text(answer.tokens) for answer in model.answers([Ask(prompt, 24) for prompt in prompts])]
    assert [city in answer for city, answer in zip(("Paris", "Tokyo", "Rome"), together, strict=True)] == [True] * 3
    assert together[1] == model.text(model.answer(prompts[1], 24)[0])


def test_sampled_answers_differ_by_seed_and_come_again_with_the_same(model, vocabulary):
    prompt = vocabulary.encode(PROMPT.replace("What is the capital of France?", "Tell me a story."))
    asks = [Ask(prompt, 12, temperature=1.0, seed=seed) for seed in (1, 2, 3)]
    said = [answer.tokens for answer in model.answers(asks)]
    assert len({tuple(tokens) for tokens in said}) > 1
    assert next(iter(model.answers(asks[1:2]))).tokens[:1] == said[1][:1]


def test_an_evaluation_holds_all_configured_scores_and_the_answers_to_the_prompts(model, vocabulary):
    test_set, counts = little_test_set(vocabulary), []
    evaluation = evaluate(model, test_set, Settings(), lambda done, total: counts.append((done, total)))
    assert set(evaluation.scores) == {
        "perplexity",
        "accuracy",
        "bleu",
        "chrf",
        "rouge",
        "token_f1",
        "general_perplexity",
    }
    assert evaluation.scores["accuracy"] > 80
    assert evaluation.scores["rouge"] > 80
    assert "Paris" in evaluation.answers[0].answer
    assert evaluation.right == [True]
    assert evaluation.fits[0] > 0.3  # Paris is likelier for France than for Japan
    assert counts[-1] == (len(counts), len(counts))
    comparison = Comparison(evaluation, evaluation)
    assert not any(score.better for score in comparison.scores())
    assert comparison.own_ratio() == metrics.Interval(1, 0, math.inf)  # of one conversation
    assert json.loads(json.dumps(comparison.record(), allow_nan=False))["base"]["tokens"] == evaluation.tokens


def little_test_set(vocabulary):
    def as_row(record):
        return record["input_ids"], [index for index, flag in enumerate(record["trained"]) if flag]

    own, other = as_row(row(vocabulary)), as_row(row(vocabulary, prompt=PROMPT.replace("France", "Japan")))
    asked = vocabulary.encode(PROMPT)
    return EvaluationSet(
        [own], [(own, [other])], [own], [Question("Capital?", asked, ("Paris",))], [Prompt("Capital?", asked)]
    )


def test_a_metric_that_cannot_be_had_is_said_and_the_others_stay(model, vocabulary):
    evaluation = evaluate(model, little_test_set(vocabulary), Settings(metrics=("perplexity", "no_such_metric")))
    assert "perplexity" in evaluation.scores
    assert "no_such_metric" in evaluation.notes[0] and "evaluate" in evaluation.notes[0]


def test_without_held_out_conversations_it_says_so_and_still_answers(model, vocabulary):
    evaluation = evaluate(model, EvaluationSet([], [], [], [], [Prompt("x", vocabulary.encode(PROMPT))]), Settings())
    assert evaluation.scores == {}
    assert evaluation.answers[0].answer
    assert "no held-out" in evaluation.notes[0]


def test_a_file_that_is_no_model_and_a_row_that_is_none_are_named(tmp_path):
    (tmp_path / "bad.gguf").write_bytes(b"nonsense")
    with pytest.raises(EngineError, match=r"bad\.gguf"):
        ServedModel(tmp_path / "bad.gguf")
    (tmp_path / "test.jsonl").write_text('{"input_ids": [1]}\n')
    with pytest.raises(DataError, match="line 1"):
        held_out_rows(tmp_path / "test.jsonl", {"a"})


def test_what_the_live_model_was_trained_on_is_no_part_of_the_exam(tmp_path):
    """A chat that grew, or moved to another split, would let the live model answer from memory."""

    def write(name, ids):
        lines = [
            {
                "id": id,
                "messages": [{"role": "user", "content": id}, {"role": "assistant", "content": f"{id}!"}],
                "input_ids": [index, 2],
                "trained": [0, 1],
            }
            for index, id in enumerate(ids)
        ]
        (tmp_path / name).write_text("".join(json.dumps(line) + "\n" for line in lines))
        return tmp_path / name

    reader = Reader(
        lambda said: said[-1].content, lambda text: [len(text)], lambda said: [([len(said[0].content), 1], [1])]
    )
    test, rows = write("test.jsonl", ["a", "b/2", "c"]), write("rows.jsonl", ["a", "b/2", "b/2#2", "c"])

    def own(learned):
        return [ids[0] for ids, _ in build_test_set(test, rows, reader, Settings(), learned).own]

    assert own(None) == own(tmp_path / "gone.jsonl") == [0, 1, 2, 3]
    assert own(write("learned.jsonl", ["b", "x"])) == [0, 3]
    assert own(write("learned.jsonl", ["a", "b", "c"])) == [0, 1, 2, 3]  # better than nothing

    parts = {"a": "chats", "b": "dolly.jsonl/qa"}
    found = build_test_set(test, rows, reader, Settings(), None, None, parts)
    assert found.parts == ["chats", "dolly.jsonl/qa", "dolly.jsonl/qa", ""]
    sampled = build_test_set(test, rows, reader, Settings(held_out=2), None, None, parts)
    assert [found.parts[found.own.index(row)] for row in sampled.own] == sampled.parts


def test_metrics_give_known_figures():
    assert metrics.perplexity([math.log(0.5)] * 4) == pytest.approx(2)
    assert metrics.perplexity([-1e9]) == math.inf
    assert metrics.bleu(["the cat sat on the mat"], ["the cat sat on the mat"]) == pytest.approx(100)
    assert metrics.rouge(["a b c d"], ["a b x y"]) == pytest.approx(50)


def test_the_interval_of_a_clear_gain_leaves_one_out_and_that_of_chance_holds_it():
    tokens = [10] * 30
    old = [-20.0 - index % 5 for index in range(30)]
    better = metrics.perplexity_ratio([value + 5 for value in old], old, tokens)
    assert better.value == pytest.approx(math.exp(-0.5))
    assert better.low <= better.value <= better.high < 1
    noise = metrics.perplexity_ratio([value + (3 if index % 2 else -3) for index, value in enumerate(old)], old, tokens)
    assert noise.low < 1 < noise.high
    assert noise == metrics.perplexity_ratio(
        [value + (3 if index % 2 else -3) for index, value in enumerate(old)], old, tokens
    )


@pytest.mark.parametrize("count", [2, 3, 6, 12, 60])
def test_an_interval_covers_the_truth_as_often_as_it_says_also_of_few_values(count):
    random = np.random.default_rng(7)
    hits = 0
    for trial in range(200):
        found = metrics.perplexity_ratio([0.0] * count, random.normal(1.0, 2.0, count), [1] * count, seed=trial)
        hits += found.low <= math.e <= found.high
    assert 178 <= hits <= 199  # 95 % of 200 is 190


@pytest.mark.parametrize("count", [5, 10, 30])
def test_noise_is_taken_for_more_than_chance_as_seldom_as_it_says(count: int) -> None:
    random = np.random.default_rng(3)
    found = [metrics.chance_of_mean(random.normal(0.0, 2.0, count), seed=trial) for trial in range(400)]
    assert 4 <= sum(chance <= 0.05 for chance in found) <= 36  # 5 % of 400 is 20
    assert metrics.chance_of_mean(random.normal(2.0, 0.5, count)) <= 0.05
    assert metrics.chance_of_mean([-1.0] * count) == 1


def test_one_value_tells_nothing_about_chance():
    assert metrics.perplexity_ratio([-1.0], [-20.0], [10]) == metrics.Interval(
        pytest.approx(math.exp(-1.9)), 0.0, math.inf
    )
