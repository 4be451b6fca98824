"""Turn conversations into token rows, so that the model is trained on exactly the tokens that it is served.

Only the engine's own chat template and vocabulary are used. Let a1 ... an be the assistant's
messages of a conversation, and prompt k the rendering of all messages before ak, including the
generation prompt. When the model is served, it reads encode(prompt k) and then generates the answer
and an end-of-turn token. So a row is

    encode(prompt 1)  a1  end  (the tokens that encode(prompt 2) adds)  a2  end  ...

with a loss on every answer and on the end token after it, except for answers with weight 0, which
are only context. The conversation stays in one row as long as encode(prompt k+1) begins with the
tokens of the row so far. This fails if the template rewrites earlier messages (for example removes
the thoughts of earlier answers) or leaves out their end of turn, or if the tokenizer merges
characters on both sides of a boundary into one token. Then a new row starts with
encode(prompt k+1), in which only the answers from there on are trained. In every row, the tokens
before an answer are those that the engine would feed to the model.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import takewhile
from typing import Protocol, runtime_checkable

from fine_tuning.conversation import Message, order_faults
from fine_tuning.engines.neutral import Neutraliser, neutralise, neutraliser_for
from fine_tuning.errors import DataError
from fine_tuning.token_rows import TokenRow

__all__ = ["ConversationTokenizer", "Render", "Tokenizer", "neutralise", "prompt_ids", "tokenize_conversation"]

Render = Callable[[Sequence[Message]], str]
"""A function that renders messages with the engine's chat template, such as `partial(engine.render, tag)`.

The last message is the user's; the generation prompt is appended.
"""


@runtime_checkable
class RendersMany(Protocol):
    """A `Render` that also renders many chats at once, which is faster than one by one (`engines.base.Rendering`)."""

    def __call__(self, messages: Sequence[Message]) -> str: ...

    def many(self, chats: Sequence[Sequence[Message]]) -> list[str]: ...


class Tokenizer(Protocol):
    """The interface of tokenizers; for the meaning of the methods see `tokenizer.TokenizerUtils`.

    It is implemented by engines.vocabulary.Vocabulary and tokenizer.HuggingFaceTokenizer.
    """

    size: int

    def encode(self, text: str, *, special: bool = True, bos: bool = False) -> list[int]: ...

    def encode_many(self, texts: Sequence[str]) -> list[list[int]]: ...

    def decode(self, tokens: Sequence[int], *, special: bool = False) -> str: ...

    def ends_turn(self, token: int) -> bool: ...

    def control_tokens(self) -> list[str]: ...

    def structural_tokens(self) -> list[str]: ...

    @property
    def eos(self) -> int: ...


def tokenize_conversation(
    messages: Sequence[Message], render: Render, tokenizer: Tokenizer, max_length: int, *, id: str = ""
) -> list[TokenRow]:
    """Return the token rows of one conversation, see `ConversationTokenizer.rows`.

    For many conversations, one ConversationTokenizer is faster.
    """
    return ConversationTokenizer(render, tokenizer, max_length).rows(messages, id=id)


_Turn = tuple[Sequence[Message], str]  # the messages before an answer, and the answer
_Tokens = tuple[list[int], list[int]]  # the tokens of a prompt, and those of the answer with the end after it
_AT_ONCE = 50_000  # characters of prompts and answers that are rendered and tokenized at once


class ConversationTokenizer:
    """Makes the token rows of conversations, with one chat template and one tokenizer."""

    def __init__(self, render: Render, tokenizer: Tokenizer, max_length: int) -> None:
        """Set the template, the tokenizer, and the maximum length of a row in tokens.

        Nothing is rendered before the first conversation, since the engine may have to load its
        model for it.
        """
        self._render = render
        self.tokenizer = tokenizer
        self.max_length = max_length

    @cached_property
    def _neutral(self) -> Neutraliser:
        return neutraliser_for(self.tokenizer.structural_tokens(), self._render)

    @cached_property
    def _form(self) -> "_AnswerForm":
        return _answer_form(self._render, self.tokenizer)

    def rows(self, messages: Sequence[Message], *, id: str = "") -> list[TokenRow]:
        """Return the token rows of a conversation.

        Usually there is one row, with the id `id`. There are more (`id#2`, ...) if the template
        rewrites earlier messages. A turn whose row would be longer than `max_length` is left out,
        and so are later turns, whose prompts contain it; there is no row if no turn fits. No token of an
        answer with weight 0 is trained, and no row consists only of such answers. Raises DataError for
        roles out of order and for empty answers.
        """
        return self.rows_of([(id, messages)])[0]

    def rows_of(self, conversations: Sequence[tuple[str, Sequence[Message]]]) -> list[list[TokenRow]]:
        """Return the token rows of each of many conversations, given as (id, messages), as `rows` does.

        Many turns are rendered and tokenized at once, so the processes that do it seldom wait for each other.
        """
        for _, messages in conversations:
            _check(messages)
        tokens = self._tokens(turn for _, messages in conversations for turn in self._turns(messages))
        return [
            self._joined(id, [(*next(tokens), bool(each.weight)) for each in messages if each.role == "assistant"])
            for id, messages in conversations
        ]

    def _turns(self, messages: Sequence[Message]) -> Iterator[_Turn]:
        heard = [message.model_copy(update={"content": self._neutral(_trimmed(message))}) for message in messages]
        for index, message in enumerate(messages):
            if message.role == "assistant":
                yield heard[:index], message.content

    def _tokens(self, turns: Iterable[_Turn]) -> Iterator[_Tokens]:
        """Yield for each turn the tokens of its prompt, and those of its answer with the end after it."""
        for batch in _batches(turns):
            chats = [before for before, _ in batch]
            render = self._render
            prompts = render.many(chats) if isinstance(render, RendersMany) else list(map(render, chats))
            answers = [
                self._form.lead + self._neutral.answer(answer, prompt) + self._form.trail
                for prompt, (_, answer) in zip(prompts, batch, strict=True)
            ]
            texts = [
                text for prompt, answer in zip(prompts, answers, strict=True) for text in (prompt, prompt + answer)
            ]
            ids = (_begun(each, self.tokenizer) for each in self.tokenizer.encode_many(texts))
            for answer in answers:
                prompt_tokens, whole = next(ids), next(ids)
                yield prompt_tokens, self._answer_ids(prompt_tokens, whole, answer)

    def _joined(self, id: str, turns: Iterable[tuple[list[int], list[int], bool]]) -> list[TokenRow]:
        """Return the rows of a conversation, given the tokens of its turns (`_tokens`), and whether each is trained."""
        rows: list[TokenRow] = []
        ids: list[int] = []
        trained: list[bool] = []
        for prompt, answer, is_trained in turns:
            if len(prompt) + len(answer) > self.max_length:
                continue
            if prompt[: len(ids)] != ids:
                rows += [TokenRow(_row_id(id, rows), ids, trained)] if any(trained) else []
                ids, trained = [], []
            trained = trained + [False] * (len(prompt) - len(ids)) + [is_trained] * len(answer)
            ids = prompt + answer
        rows += [TokenRow(_row_id(id, rows), ids, trained)] if any(trained) else []
        return rows

    def last_answer(self, messages: Sequence[Message]) -> tuple[list[int], list[int]] | None:
        """Return (tokens of the prompt of the last answer, tokens of this answer), whatever its weight is.

        Return None if any answer of the conversation does not fit into a row. Raises DataError as
        `rows` does.
        """
        messages = [message.model_copy(update={"weight": 1}) for message in messages]
        made = self.rows(messages)
        if not made or sum(row.turns for row in made) < sum(message.role == "assistant" for message in messages):
            return None
        last = made[-1]
        size = len(list(takewhile(bool, reversed(last.trained))))
        return last.input_ids[:-size], last.input_ids[-size:]

    def _answer_ids(self, prompt: list[int], whole: list[int], answer: str) -> list[int]:
        """Return the tokens of an answer and of its end, as the model would generate them after `prompt`.

        `whole`: the tokens of the prompt and the answer as one text.

        The answer is tokenized together with its prompt, because SentencePiece treats the start of a
        text differently. If a token would then span the boundary between both, the answer is
        tokenized alone, because generation starts after the prompt's last token.
        """
        seam = len(prompt)
        return [*(whole[seam:] if whole[:seam] == prompt else self.tokenizer.encode(answer)), self._form.end]


def _check(messages: Sequence[Message]) -> None:
    """Raise DataError for roles out of order and for empty answers."""
    faults = order_faults(messages)
    faults += [
        f"message {i} is an empty answer"
        for i, m in enumerate(messages)
        if m.role == "assistant" and not m.content.strip()
    ]
    if faults:
        raise DataError("not a conversation to train on: " + "; ".join(faults))


def _trimmed(message: Message) -> str:
    """Return the content of a message; for an answer, without surrounding white space."""
    return message.content.strip() if message.role == "assistant" else message.content


def prompt_ids(text: str, tokenizer: Tokenizer) -> list[int]:
    """Return the tokens of a rendered prompt, as the engine computes them.

    Control tokens are parsed. The begin-of-sequence token comes first if the model uses one, but not
    twice if the template already wrote it.
    """
    return _begun(tokenizer.encode(text, special=True), tokenizer)


def _begun(ids: list[int], tokenizer: Tokenizer) -> list[int]:
    """Return the tokens of a prompt with the begin-of-sequence token, if the model uses one, but not twice."""
    bos = tokenizer.encode("", bos=True)[:1]
    return ids if ids[:1] == bos else [*bos, *ids]


def _batches(turns: Iterable[_Turn]) -> Iterator[list[_Turn]]:
    """Yield the turns in batches of about `_AT_ONCE` characters, but at least one turn."""
    batch: list[_Turn] = []
    size = 0
    for before, answer in turns:
        batch.append((before, answer))
        size += sum(len(message.content) for message in before) + len(answer)
        if size >= _AT_ONCE:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


@dataclass(frozen=True)
class _AnswerForm:
    """The white space and the end token that a chat template writes before and after an earlier answer."""

    lead: str  # white space before the answer
    trail: str  # white space between the answer and its end token
    end: int  # id of the end-of-turn token


def _answer_form(render: Render, tokenizer: Tokenizer) -> _AnswerForm:
    """Return what the template writes before and after an earlier answer, by rendering a test conversation.

    If the template writes no end of turn after an answer, the vocabulary's end-of-sequence token is
    used. Raises DataError if the vocabulary has none.
    """
    question, mark = Message(role="user", content="Question?"), "Answer-7-probe"
    prompt = render([question])
    history = render([question, Message(role="assistant", content=mark), Message(role="user", content="Next?")])
    before, _, after = history.partition(mark)
    between = before.removeprefix(prompt)
    lead = between if before.startswith(prompt) and not between.strip() else ""
    closing = after.lstrip()
    ids = tokenizer.encode(closing, special=True)
    if ids and tokenizer.ends_turn(ids[0]):
        return _AnswerForm(lead, after.removesuffix(closing), ids[0])
    if tokenizer.eos < 0:
        raise DataError(
            "the chat template does not end turns, and the vocabulary has no end-of-sequence token: answers would "
            "never stop. Choose another base"
        )
    return _AnswerForm(lead, "", tokenizer.eos)


def _row_id(id: str, rows: list[TokenRow]) -> str:
    return f"{id}#{len(rows) + 1}" if rows else id
