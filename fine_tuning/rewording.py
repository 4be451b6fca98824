"""Provide the two models that reword questions for the augmentation.

One model of the engine rewords a question. The base then checks that the recorded answer is about
as likely after the reworded question as after the original (data_preparation/paraphrase.py).
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING

from fine_tuning.conversation import Message
from fine_tuning.data_preparation.paraphrase import Rewording
from fine_tuning.data_preparation.rows import ConversationTokenizer
from fine_tuning.engines.base import ChatOptions
from fine_tuning.workshop import Workshop

if TYPE_CHECKING:
    from fine_tuning.evaluation.served_model import ServedModel

_LONGEST = 96  # maximum tokens of a reworded question


@contextmanager
def rewording(shop: Workshop) -> Iterator[Rewording | None]:
    """Yield the Rewording for the configured augmentation; None if no questions are to be reworded.

    The models are loaded when the first question is reworded. Raises ModelNotFound if the engine
    does not have the configured model. The Rewording raises Cancelled if `shop.watch` asks to stop.
    """
    settings = shop.config.augmentation
    if not settings.rewords:
        yield None
        return
    writer = shop.engine.show(settings.model) if settings.model else shop.base
    models = _Models(shop, writer.tag)
    key = f"{shop.engine.name} {writer.digest} {shop.base.digest}"
    try:
        yield Rewording(key, models.ask, models.likelihood, settings.margin)
    finally:
        models.close()


class _Models:
    def __init__(self, shop: Workshop, writer: str) -> None:
        self._shop, self._writer = shop, writer
        self._judge: ServedModel | None = None

    def ask(self, asked: Sequence[Message], seed: int) -> str:
        self._shop.watch.stop_if_asked()
        options = ChatOptions(temperature=0.7, top_p=0.9, seed=seed, max_tokens=_LONGEST)
        chunks = list(self._shop.engine.chat(self._writer, asked, options))
        return "".join(chunk.text for chunk in chunks) if chunks[-1].done_reason == "stop" else ""

    def likelihood(self, messages: Sequence[Message]) -> float | None:
        found = self._tokenizer.last_answer(messages)
        if found is None:
            return None
        prompt, answer = found
        logprobs, _ = self._base.logprobs(prompt + answer, range(len(prompt), len(prompt) + len(answer)))
        return sum(logprobs) / len(answer)

    def close(self) -> None:
        if self._judge:
            self._judge.close()

    @property
    def _base(self) -> "ServedModel":
        from fine_tuning.evaluation.served_model import ServedModel

        if self._judge is None:
            self._judge = ServedModel(self._shop.base.gguf, context=self._shop.config.data_preparation.max_length)
        return self._judge

    @cached_property
    def _tokenizer(self) -> ConversationTokenizer:
        shop = self._shop
        return ConversationTokenizer(shop.render, shop.vocabulary, shop.config.data_preparation.max_length)
