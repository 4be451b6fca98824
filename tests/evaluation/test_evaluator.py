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
from fine_tuning.evaluation.evaluator import Prompt, evaluate
from fine_tuning.evaluation.served_model import ServedModel

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


def test_logprobs_are_those_of_the_model_asked_token_by_token(model, vocabulary):
    """The reference: llama-cpp-python's own eval with all logits, one prefix at a time."""
    record = row(vocabulary)
    ids = record["input_ids"]
    targets = [index for index, flag in enumerate(record["trained"]) if flag]
    found, _ = model.logprobs(ids, targets)
    llama = model._llama
    for target, logprob in list(zip(targets, found, strict=True))[::3]:
        model._clear()
        llama.eval(ids[:target])
        logits = np.array(llama._ctx.get_logits_ith(-1)[: llama.n_vocab()], dtype=np.float64)
        expected = logits[ids[target]] - logits.max() - math.log(np.exp(logits - logits.max()).sum())
        assert logprob == pytest.approx(expected, abs=0.02)


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


def test_an_evaluation_holds_all_configured_scores_and_the_answers_to_the_prompts(base_gguf, vocabulary, tmp_path):
    rows = tmp_path / "test.jsonl"
    rows.write_text(json.dumps(row(vocabulary)) + "\n")
    counts = []
    prompts = [Prompt("Capital?", vocabulary.encode(PROMPT))]
    evaluation = evaluate(base_gguf, None, rows, prompts, Settings(), 256, lambda done, total: counts.append((done, total)))
    assert set(evaluation.scores) == {"perplexity", "accuracy", "bleu", "rouge"}
    assert evaluation.scores["accuracy"] > 80
    assert evaluation.scores["rouge"] > 80
    assert "Paris" in evaluation.answers[0].answer
    assert counts == [(1, 3), (2, 3), (3, 3)]
    comparison = Comparison(evaluation, evaluation)
    assert [score.better for score in comparison.scores()] == [False] * 4
    assert json.loads(json.dumps(comparison.record()))["base"]["tokens"] == evaluation.tokens


def test_without_held_out_conversations_it_says_so_and_still_answers(base_gguf, vocabulary, tmp_path):
    (tmp_path / "test.jsonl").write_text("")
    evaluation = evaluate(base_gguf, None, tmp_path / "test.jsonl", [Prompt("x", vocabulary.encode(PROMPT))], Settings(), 256)
    assert evaluation.scores == {}
    assert "no held-out" in evaluation.notes[0]


def test_a_file_that_is_no_model_and_a_row_that_is_none_are_named(base_gguf, tmp_path):
    (tmp_path / "bad.gguf").write_bytes(b"nonsense")
    with pytest.raises(EngineError, match=r"bad\.gguf"):
        ServedModel(tmp_path / "bad.gguf")
    (tmp_path / "test.jsonl").write_text('{"input_ids": [1]}\n')
    with pytest.raises(DataError, match="line 1"):
        evaluate(base_gguf, None, tmp_path / "test.jsonl", [], Settings())


def test_metrics_give_known_figures():
    assert metrics.perplexity([math.log(0.5)] * 4) == pytest.approx(2)
    assert metrics.perplexity([-1e9]) == math.inf
    assert metrics.bleu(["the cat sat on the mat"], ["the cat sat on the mat"]) == pytest.approx(100)
    assert metrics.rouge(["a b c d"], ["a b x y"]) == pytest.approx(50)
