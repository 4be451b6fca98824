"""Generate answers with Transformers, for trained models that cannot be exported as a GGUF."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

import torch

from fine_tuning.config.training import Training
from fine_tuning.training import methods
from fine_tuning.training.base_model import load_base
from fine_tuning.training.trainer_utils import quiet

if TYPE_CHECKING:
    from transformers import PreTrainedModel

EndsTurn = Callable[[int], bool]  # whether a token ends the answer


def answer_both(
    base: Path,
    trained: Path,
    run: Path,
    settings: Training,
    prompts: Sequence[list[int]],
    limit: int,
    ends_turn: EndsTurn,
) -> list[tuple[list[int], list[int]]]:
    """Return for each prompt two greedy answers: from `base`, and from `base` with the adapter in `trained`.

    Prompts and answers are token ids; an answer has at most `limit` tokens. `run`: the run's
    folder, for temporary files. Raises TrainingError if the base cannot be loaded.
    """
    with quiet():
        model = load_base(base, torch.float32, run / "base")
        before = [answer(model, prompt, limit, ends_turn) for prompt in prompts]
        model = methods.METHODS[settings.method].attach(model, settings)
        model.eval()
        methods.restore(model, trained)
        after = [answer(model, prompt, limit, ends_turn) for prompt in prompts]
    return list(zip(before, after, strict=True))


@torch.no_grad()
def answer(model: "PreTrainedModel", prompt: list[int], limit: int, ends_turn: EndsTurn) -> list[int]:
    """Return the greedy continuation of `prompt`, of at most `limit` tokens, without the token that ends it."""
    from transformers import GenerationConfig

    def ended(tokens: torch.Tensor, scores: object, **kwargs: object) -> torch.Tensor:
        return torch.tensor([ends_turn(int(tokens[0, -1]))], device=tokens.device)

    prompted = torch.tensor([prompt], device=model.device)
    config = GenerationConfig(max_new_tokens=limit, do_sample=False, pad_token_id=0, use_cache=True)
    generate = cast("Callable[..., torch.Tensor]", model.generate)
    attended = torch.ones_like(prompted)
    made = generate(input_ids=prompted, attention_mask=attended, generation_config=config, stopping_criteria=[ended])[
        0
    ].tolist()
    tokens = made[len(prompt) :] if made[: len(prompt)] == prompt else made
    return tokens[:-1] if tokens and ends_turn(tokens[-1]) else tokens
