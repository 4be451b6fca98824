"""Perplexity as others compute it, in flat memory, and of what rows share computed once."""

import json
import math

import numpy as np
import psutil
import pytest

from fine_tuning import paths
from fine_tuning.engines.ggml import dequantize
from fine_tuning.engines.gguf_file import TensorInfo, read_gguf, write_gguf
from fine_tuning.engines.vocabulary import Vocabulary
from fine_tuning.evaluation import metrics
from fine_tuning.evaluation.decoder import Decoder
from fine_tuning.evaluation.served_model import ServedModel


def general_rows(vocabulary, count: int) -> list[tuple[list[int], list[int]]]:
    rows = []
    for line in (paths.SAMPLES / "general_text.jsonl").read_text(encoding="utf-8").splitlines()[:count]:
        record = json.loads(line)
        head = vocabulary.encode(f"<|im_start|>user\n{record['question']}<|im_end|>\n<|im_start|>assistant\n")
        ids = head + vocabulary.encode(record["answer"])
        rows.append((ids, list(range(len(head), len(ids)))))
    return rows


@pytest.mark.slow
def test_perplexity_agrees_with_transformers_on_the_same_text_within_one_per_cent(base_gguf, tmp_path):
    """The base made f16, in llama.cpp; the same weights in torch."""
    import torch

    from fine_tuning.training.base_model import load_base

    f16 = half_precision(base_gguf, tmp_path / "base-f16.gguf")
    rows = general_rows(Vocabulary(base_gguf), 12)
    with ServedModel(f16) as served:
        scores = list(served.scores(rows))
    mine = metrics.perplexity([sum(score.logprob for score in scores) / sum(score.tokens for score in scores)])
    model = load_base(f16, torch.float32, tmp_path / "outline").eval()
    logprob, count = 0.0, 0
    with torch.no_grad():
        for ids, targets in rows:
            logprobs = model(torch.tensor([ids])).logits[0].log_softmax(-1)
            logprob += sum(logprobs[target - 1, ids[target]].item() for target in targets)
            count += len(targets)
    assert mine == pytest.approx(math.exp(-logprob / count), rel=0.01)


def half_precision(source, target):
    """`source` with its matrices as F16."""
    from gguf import GGMLQuantizationType as Type

    found, content = read_gguf(source), source.read_bytes()

    def converted(tensor):
        start = found.starts[tensor.name]
        raw = np.frombuffer(content[start : start + tensor.size], np.uint8)
        if len(tensor.shape) == 1:
            return tensor, [raw.tobytes()]
        halves = dequantize(raw.reshape(tensor.rows, -1), tensor.kind, tensor.columns).astype(np.float16)
        return TensorInfo(tensor.name, tensor.shape, Type.F16), [halves.tobytes()]

    write_gguf(target, found.metadata, [converted(tensor) for tensor in found.tensors.values()])
    return target


BRANCHES = [
    [100, 101, 102, 103, 104],
    [100, 101, 102, 103],  # the beginning of the one before it
    [100, 101, 102, 103, 104],  # the same again
    [100, 101, 200, 103, 104],  # goes on alike after a difference
    [300, 301],
]
LONG = [[100, *range(1000, 1000 + size), 7, 8] for size in (580, 600)]  # more tokens than one batch takes


@pytest.mark.parametrize("order", [1, -1])
def test_what_rows_begin_with_is_computed_once_and_each_scores_as_by_itself(small_base, monkeypatch, order):
    decoder, counts = Decoder(str(small_base), None, 2048, 1), list[int]()
    decode = decoder._decode
    monkeypatch.setattr(decoder, "_decode", lambda cells: (counts.append(len(cells)), decode(cells)))

    def scores(rows: list[list[int]]) -> list[tuple[float, int, int]]:
        return [each for each in decoder.scores([(ids, list(range(1, len(ids)))) for ids in rows]) if each]

    scores(BRANCHES[::order])
    assert sum(counts) == 7  # 100 to 103, then 200 and 103, and 300: nothing depends on a row's last token
    rows = [*BRANCHES, *LONG][::order]
    together, alone = scores(rows), [scores([row])[0] for row in rows]
    for (logprob, *found), (expected, *wanted) in zip(together, alone, strict=True):
        assert logprob == pytest.approx(expected, rel=1e-3) and found == wanted


@pytest.mark.slow
def test_memory_stays_flat_however_many_conversations_are_scored(base_gguf):
    rows = [
        (ids[:16], [target for target in targets if target < 16])
        for ids, targets in general_rows(Vocabulary(base_gguf), 20)
    ]

    with ServedModel(base_gguf) as served:

        def used():
            memory = psutil.Process(served.pid).memory_info()
            return memory.rss - memory.shared  # the weights are the file's own pages, read as they are needed

        list(served.scores(rows))
        before = used()
        assert len(list(served.scores(rows * 2))) == 40
        assert used() - before < 20e6
