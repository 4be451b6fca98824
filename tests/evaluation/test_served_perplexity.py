"""Perplexity as others compute it, and in flat memory."""

import json
import math

import psutil
import pytest

from fine_tuning import paths
from fine_tuning.engines.vocabulary import Vocabulary
from fine_tuning.evaluation import metrics
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
    """The base made f16 by the program's own export, in llama.cpp; the same weights in torch."""
    import torch
    from transformers import AutoModelForCausalLM

    f16 = half_precision(base_gguf, tmp_path / "base-f16.gguf")
    rows = general_rows(Vocabulary(base_gguf), 12)
    with ServedModel(f16) as served:
        scores = list(served.scores(rows))
    mine = metrics.perplexity([sum(score.logprob for score in scores) / sum(score.tokens for score in scores)])
    model = AutoModelForCausalLM.from_pretrained(f16.parent, gguf_file=f16.name, dtype=torch.float32).eval()
    logprob, count = 0.0, 0
    with torch.no_grad():
        for ids, targets in rows:
            logprobs = model(torch.tensor([ids])).logits[0].log_softmax(-1)
            logprob += sum(logprobs[target - 1, ids[target]].item() for target in targets)
            count += len(targets)
    assert mine == pytest.approx(math.exp(-logprob / count), rel=0.01)


def half_precision(source, target):
    """`source` with every tensor as f16 (norms as f32), through the exporter: an adapter that changes nothing, merged."""
    import gguf
    import numpy as np

    reader = gguf.GGUFReader(source)
    writer = gguf.GGUFWriter(target, "llama")
    for name, field in reader.fields.items():
        if not name.startswith("GGUF.") and name != "general.architecture":
            kind = field.types[0]
            writer.add_key_value(name, field.contents(), kind, field.types[1] if kind == gguf.GGUFValueType.ARRAY else None)
    for tensor in reader.tensors:
        values = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        writer.add_tensor(tensor.name, values.astype(np.float32 if values.ndim == 1 else np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return target


@pytest.mark.slow
def test_memory_stays_flat_however_many_conversations_are_scored(base_gguf):
    rows = [(ids[:48], [target for target in targets if target < 48]) for ids, targets in general_rows(Vocabulary(base_gguf), 60)]
    process = psutil.Process()
    with ServedModel(base_gguf) as served:
        list(served.scores(rows[:20]))
        before = process.memory_info().rss
        assert len(list(served.scores(rows))) == 60
        assert process.memory_info().rss - before < 50e6
