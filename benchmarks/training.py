"""Compare the speed, memory and losses of byoai's training with those of TRL: same tokens, same LoRA, same batches.

    python benchmarks/training.py                     # a table of all sides on both kinds of chats
    python benchmarks/training.py --grow              # byoai with 1, 4 and 16 times as many conversations
    python benchmarks/training.py --sides packed,trl-tuned --rounds 3
    python benchmarks/training.py --sides packed --batch 32      # conversations per step (default: 8)
    python benchmarks/training.py --sides packed,plain

The sides are `trl`, TRL with its defaults; `trl-tuned`; `packed`, byoai; and byoai with one other
setting: `qlora`, `plain` (`training.fused: false`), `blas` (no oneDNN), `bfloat16`. They are measured
alternately, each time in a new process; figures are medians. "Of the GEMM peak" is the speed of a
step as a share of the speed of matrix products of the same size, which are timed after each step.

The base is the default one (SmolLM2-135M), the data are English chats of `chatterbot-corpus` from
PyPI, of two kinds. `shared`: one question and answer, with the template's own system prompt, so
that all chats begin with the same tokens. `apart`: three questions and answers, and a different
system prompt in each chat.
"""

import argparse
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from fine_tuning import paths
from fine_tuning.config import Replay, Training
from fine_tuning.engines.default_base import fetch_default_base

SETTINGS = Training(
    method="lora",
    batch_size=8,
    num_epochs=1,
    learning_rate=2e-4,
    warmup_ratio=0,
    dtype="float32",
    save_steps=10_000_000,
    replay=Replay(share=0),
)
OUR_SETTINGS: dict[str, dict[str, Any]] = {
    "packed": {},
    "qlora": {"method": "qlora"},
    "plain": {"fused": False},
    "blas": {"products": "blas"},
    "bfloat16": {"dtype": "bfloat16"},
}
TRL_SETTINGS: dict[str, dict[str, Any]] = {
    "trl": {},
    "trl-tuned": {"gradient_checkpointing": False, "train_sampling_strategy": "group_by_length", "loss_type": "nll"},
}


# The data


def corpus() -> list[tuple[str, str]]:
    """Return pairs of a question and an answer, in a random order that is always the same.

    The corpus is downloaded by pip at the first call.
    """
    folder = paths.cache() / "benchmarks"
    if not list(folder.glob("chatterbot_corpus*.whl")):
        pip = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "-q",
            "--no-deps",
            "-d",
            str(folder),
            "chatterbot-corpus==1.3.3",
        ]
        subprocess.run(pip, check=True)
    found = []
    with zipfile.ZipFile(next(folder.glob("chatterbot_corpus*.whl"))) as wheel:
        for name in sorted(name for name in wheel.namelist() if "data/english/" in name and name.endswith(".yml")):
            chats = yaml.safe_load(wheel.read(name))["conversations"]
            found += [(str(chat[0]), str(chat[1])) for chat in chats if len(chat) >= 2]
    random.Random(0).shuffle(found)
    return found


def chats(kind: str, count: int) -> list[list[dict[str, str]]]:
    pairs, size = corpus(), 1 if kind == "shared" else 3
    made = []
    for index in range(count):
        chat = (
            []
            if kind == "shared"
            else [{"role": "system", "content": f"{index * 7919 % 9973} is the number of this conversation."}]
        )
        for offset in range(size):
            question, answer = pairs[(index * size + offset) % len(pairs)]
            chat += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        made.append(chat)
    return made


def tokenizer() -> Any:
    from transformers import AutoTokenizer

    base = fetch_default_base()
    return AutoTokenizer.from_pretrained(str(base.parent), gguf_file=base.name)


def token_rows(kind: str, count: int) -> list[dict[str, list[int]]]:
    """Return `count` chats of a kind as token rows.

    Only the last answer carries loss, as in TRL with `prompt` and `completion`.
    """
    words, rows = tokenizer(), []
    for chat in chats(kind, count):
        prompt = words.apply_chat_template(chat[:-1], add_generation_prompt=True, tokenize=True, return_dict=False)
        whole = words.apply_chat_template(chat, tokenize=True, return_dict=False)
        rows.append({"input_ids": whole, "trained": [int(index >= len(prompt)) for index in range(len(whole))]})
    return rows


# One measurement


def measure(side: str, kind: str, count: int, batch: int, epochs: int) -> dict[str, Any]:
    """Run one training of a side; return its seconds, tokens, peak memory in bytes and losses."""
    rows, settings = token_rows(kind, count), SETTINGS.model_copy(update={"batch_size": batch, "num_epochs": epochs})
    with tempfile.TemporaryDirectory() as folder:
        return (_trl if side in TRL_SETTINGS else _packed)(side, rows, kind, settings, Path(folder))


def _packed(side: str, rows: list[dict[str, list[int]]], kind: str, settings: Training, folder: Path) -> dict[str, Any]:
    from fine_tuning.events import Watch
    from fine_tuning.training.qlora_trainer import trainer_for
    from fine_tuning.training.trainer_utils import TrainingRows

    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "validation.jsonl").write_text("")
    settings = Training(**settings.model_dump() | OUR_SETTINGS[side])
    clock = _Clock(settings)
    trainer_for(fetch_default_base(), settings).train(TrainingRows(folder), folder / "run", Watch(clock.step))
    last = clock.steps[-1]
    return {
        "seconds": last.tokens / last.tokens_per_second - sum(clock.measuring[:-1]),
        "tokens": last.tokens,
        "memory": last.memory,
        "gemm_share": clock.gemm_share(),
        "losses": [step.loss for step in clock.steps],
    }


_MEASURED = 0.1  # seconds of a speed measurement


class _Clock:
    """Records the steps of a training, and measures the machine's speed in matrix products after each.

    The speed is measured after every step, since the processor's clock frequency changes within seconds.
    """

    def __init__(self, settings: Training) -> None:
        self.settings = settings
        self.steps: list[Any] = []
        self.came: list[float] = []  # time at which each step ended (perf_counter)
        self.measuring: list[float] = []  # seconds of the measurement after each step
        self.peaks: list[float] = []  # floating-point operations per second measured after each step

    def step(self, progress: Any) -> None:
        from fine_tuning.training.fast.matmul import used
        from fine_tuning.training.hardware import choose_dtype, gemm_flops

        self.steps.append(progress)
        self.came.append(time.perf_counter())
        self.peaks.append(gemm_flops(choose_dtype(self.settings, used()), over=_MEASURED))
        self.measuring.append(time.perf_counter() - self.came[-1])

    def gemm_share(self) -> float:
        """Return the speed of the median step as a share of the speed of matrix products alone.

        The time of a step is that since the end of the previous one, without the measurement
        between them. The median leaves out the first steps, which are slower since memory is still
        being allocated. Return NaN for fewer than two steps.
        """
        shares = []
        for before in range(len(self.steps) - 1):
            seconds = self.came[before + 1] - self.came[before] - self.measuring[before]
            peak = (self.peaks[before] + self.peaks[before + 1]) / 2
            shares.append((self.steps[before + 1].flops - self.steps[before].flops) / (seconds * peak))
        return statistics.median(shares) if shares else float("nan")


def _trl(side: str, rows: list[dict[str, list[int]]], kind: str, settings: Training, folder: Path) -> dict[str, Any]:
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import set_seed
    from trl import SFTConfig, SFTTrainer

    from fine_tuning.training.base_model import load_base
    from fine_tuning.training.hardware import peak_memory

    set_seed(settings.seed)
    model = load_base(fetch_default_base(), torch.float32, folder / "base")
    words = tokenizer()
    words.pad_token = words.pad_token or words.eos_token
    arguments = SFTConfig(
        output_dir=str(folder / "out"),
        num_train_epochs=settings.num_epochs,
        per_device_train_batch_size=settings.batch_size,
        learning_rate=settings.learning_rate,
        max_length=2048,
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        use_cpu=True,
        bf16=False,
        seed=settings.seed,
        disable_tqdm=True,
        **TRL_SETTINGS[side],
    )
    data = [{"prompt": chat[:-1], "completion": chat[-1:]} for chat in chats(kind, len(rows))]
    lora = LoraConfig(
        r=settings.lora_r, lora_alpha=settings.lora_alpha, target_modules="all-linear", task_type="CAUSAL_LM"
    )
    trainer = SFTTrainer(
        model=model, args=arguments, train_dataset=Dataset.from_list(data), processing_class=words, peft_config=lora
    )
    started = time.perf_counter()
    trainer.train()
    seconds = time.perf_counter() - started
    tokens = settings.num_epochs * sum(len(row["input_ids"]) for row in trainer.train_dataset)
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return {"seconds": seconds, "tokens": tokens, "memory": peak_memory(), "gemm_share": None, "losses": losses}


# The tables


def child(side: str, kind: str, count: int, batch: int, epochs: int) -> dict[str, Any]:
    command = [sys.executable, __file__, "--child", side, kind, str(count), str(batch), str(epochs)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr[-4000:])
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    print(
        f"  {kind} {side} {count}: {result['seconds']:.1f} s, {result['memory'] / 1e6:.0f} MB",
        file=sys.stderr,
        flush=True,
    )
    return result


def median(runs: list[dict[str, Any]], of: Callable[[dict[str, Any]], float]) -> float:
    return statistics.median(of(run) for run in runs)


def compare(sides: list[str], kinds: list[str], rounds: int, count: int, batch: int, epochs: int) -> None:
    print(
        "| chats | way | s | tokens/s | of the GEMM peak | peak MB | loss, first and last step "
        "|\n|---|---|---|---|---|---|---|"
    )
    for kind in kinds:
        runs: dict[str, list[dict[str, Any]]] = {side: [] for side in sides}
        for _ in range(rounds):
            for side in sides:
                runs[side].append(child(side, kind, count, batch, epochs))
        for side, measured in runs.items():
            seconds = median(measured, lambda run: run["seconds"])
            share = (
                "" if measured[0]["gemm_share"] is None else f"{median(measured, lambda run: run['gemm_share']):.0%}"
            )
            memory, first = median(measured, lambda run: run["memory"]) / 1e6, measured[0]
            losses = f"{first['losses'][0]:.4f} {first['losses'][-1]:.4f}"
            print(
                f"| {kind} | {side} | {seconds:.1f} | {first['tokens'] / seconds:.0f} | {share} | {memory:.0f} | "
                f"{losses} |",
                flush=True,
            )


def grow(count: int, batch: int, epochs: int) -> None:
    print("| conversations | s | s per 1000 tokens | peak MB |\n|---|---|---|---|")
    for factor in (1, 4, 16):
        run = child("packed", "shared", count * factor, batch, epochs)
        print(
            f"| {count * factor} | {run['seconds']:.1f} | {1000 * run['seconds'] / run['tokens']:.2f} | "
            f"{run['memory'] / 1e6:.0f} |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sides", default="trl,trl-tuned,packed")
    parser.add_argument("--kinds", default="shared,apart")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--rows", type=int, default=200)
    parser.add_argument("--grow", action="store_true")
    parser.add_argument("--batch", type=int, default=SETTINGS.batch_size)
    parser.add_argument("--epochs", type=int, default=SETTINGS.num_epochs)
    parser.add_argument("--child", nargs=5, metavar=("SIDE", "KIND", "ROWS", "BATCH", "EPOCHS"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        side, kind, *numbers = options.child
        print(json.dumps(measure(side, kind, *map(int, numbers))))
    elif options.grow:
        grow(options.rows, options.batch, options.epochs)
    else:
        compare(
            options.sides.split(","),
            options.kinds.split(","),
            options.rounds,
            options.rows,
            options.batch,
            options.epochs,
        )


if __name__ == "__main__":
    main()
