"""Answer prompts with the result of a run through Transformers, for methods that cannot be exported to GGUF."""

from collections.abc import Sequence
from pathlib import Path

from fine_tuning import paths
from fine_tuning.config import FineTuningConfig, load_config
from fine_tuning.conversation import Message
from fine_tuning.data_preparation.rows import prompt_ids
from fine_tuning.engines.base import Engine, ModelDetails
from fine_tuning.engines.vocabulary import Vocabulary
from fine_tuning.errors import ConfigError
from fine_tuning.runs import Run

Answers = tuple[tuple[str, str, str], ...]
"""Tuples of a prompt, the base's answer, and the fine-tuned model's answer."""


def through_transformers(
    config: FineTuningConfig,
    engine: Engine,
    base: ModelDetails,
    run: Run,
    texts: Sequence[str],
    limit: int | None = None,
) -> Answers:
    """Return for each of `texts`, as a prompt, the answers of the base and of the fine-tuned model in `run`.

    `config`: the configuration of the run. `limit`: maximum tokens of an answer; None: as
    configured. Raises TrainingError if the base cannot be loaded.
    """
    from fine_tuning.training.generate import answer_both

    words = Vocabulary(base.gguf)
    prompts = [prompt_ids(engine.render(base.tag, [Message(role="user", content=text)]), words) for text in texts]
    most = limit or config.evaluation.max_new_tokens
    pairs = answer_both(base.gguf, run.adapter, run.folder, config.training, prompts, most, words.ends_turn)
    return tuple(
        (text, words.decode(before), words.decode(after)) for text, (before, after) in zip(texts, pairs, strict=True)
    )


def answers_of_run(
    config: FineTuningConfig, engine: Engine, run: Path, texts: Sequence[str], limit: int | None = None
) -> Answers:
    """Return the result of `through_transformers` for a finished run, given by its folder or its name.

    Raises ConfigError if the run has no result, or was trained on another base than the engine has
    now under that name.
    """
    found = Run(run if run.is_dir() else config.runs_dir / run)
    if not all(file.exists() for file in (found.inputs, found.config, found.adapter)):
        known = ", ".join(sorted(each.parent.name for each in config.runs_dir.glob("*/inputs.json"))) or "none"
        raise ConfigError(
            f"{found.folder} is not a run whose training was completed. Completed runs in {config.runs_dir}: {known}"
        )
    before = paths.read_json(found.inputs)
    base = engine.show(before["base"])
    if base.gguf_digest != before["base_digest"]:
        raise ConfigError(
            f"{found.folder} was trained on other weights of {base.tag} than {engine.name} has now: retrain"
        )
    return through_transformers(load_config(found.config), engine, base, found, texts, limit)
