"""From a conversation to token rows: the model learns exactly what it will be served.

The engine's own rendering is the only renderer, its own vocabulary the only tokenizer. For the
assistant's turns a1..an of a conversation, prompt k is the rendering of everything before ak,
generation prompt included: at serving time the model reads `encode(prompt k)`, in one piece, and
then generates the answer and an end-of-turn token. So a row is

    encode(prompt 1)  a1 end  ...what encode(prompt 2) adds...  a2 end  ...   with loss on every answer and the end after it.

This fits into one row as long as encode(prompt k+1) begins with the row so far, *token by token*. A
template may rewrite history (strip the thinking of earlier answers), leave the end of turn out of
it, or let a token reach across the seam. Then the served history wins: a new row starts from
encode(prompt k+1), in which nothing but the answers from there on are trained. In every row, the
tokens before an answer are those that the engine would feed.
"""  # noqa: E501

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import takewhile
from typing import Protocol

from fine_tuning.conversation import Message, order_faults
from fine_tuning.engines.neutral import Neutraliser, neutralise, neutraliser_for
from fine_tuning.errors import DataError
from fine_tuning.token_rows import TokenRow

__all__ = ["ConversationTokenizer", "Render", "Tokenizer", "neutralise", "prompt_ids", "tokenize_conversation"]

Render = Callable[[Sequence[Message]], str]
"""The engine's own text of messages that end with a user's, generation prompt included:
`partial(engine.render, tag)`.
"""


class Tokenizer(Protocol):
    """engines.vocabulary.Vocabulary, or tokenizer.HuggingFaceTokenizer."""

    size: int

    def encode(self, text: str, *, special: bool = True, bos: bool = False) -> list[int]: ...

    def decode(self, tokens: Sequence[int], *, special: bool = False) -> str: ...

    def ends_turn(self, token: int) -> bool: ...

    def control_tokens(self) -> list[str]: ...

    def structural_tokens(self) -> list[str]: ...

    @property
    def eos(self) -> int: ...


def tokenize_conversation(
    messages: Sequence[Message], render: Render, tokenizer: Tokenizer, max_length: int, *, id: str = ""
) -> list[TokenRow]:
    """The rows of one conversation: see `ConversationTokenizer.rows`. For many conversations make
    one ConversationTokenizer.
    """
    return ConversationTokenizer(render, tokenizer, max_length).rows(messages, id=id)


class ConversationTokenizer:
    def __init__(self, render: Render, tokenizer: Tokenizer, max_length: int) -> None:
        """`max_length` in tokens of a row. Costs nothing before the first row, for which an engine
        may have to load its model.
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
        """Usually one row; more where the template rewrites history (`id`, `id#2`, ...); none if no turn fits.

        A turn that would make its row longer than `max_length` is left out, and so are those after it that contain it.
        Raises DataError for roles out of order and for empty answers.
        """
        _check(messages)
        heard = [message.model_copy(update={"content": self._neutral(_trimmed(message))}) for message in messages]
        rows: list[TokenRow] = []
        ids: list[int] = []
        trained: list[bool] = []
        for index, message in enumerate(messages):
            if message.role != "assistant":
                continue
            prompt_text = self._render(heard[:index])
            prompt = prompt_ids(prompt_text, self.tokenizer)
            answer = self._answer_ids(prompt_text, prompt, self._neutral.answer(message.content, prompt_text))
            if len(prompt) + len(answer) > self.max_length:
                continue
            if prompt[: len(ids)] != ids:
                rows.append(TokenRow(_row_id(id, rows), ids, trained))
                ids, trained = [], []
            trained = trained + [False] * (len(prompt) - len(ids)) + [True] * len(answer)
            ids = prompt + answer
        if ids:
            rows.append(TokenRow(_row_id(id, rows), ids, trained))
        return rows

    def last_answer(self, messages: Sequence[Message]) -> tuple[list[int], list[int]] | None:
        """The last answer in tokens, behind the prompt that leads to it; None if an answer does not
        fit. Raises as `rows` does.
        """
        made = self.rows(messages)
        if not made or sum(row.turns for row in made) < sum(message.role == "assistant" for message in messages):
            return None
        last = made[-1]
        size = len(list(takewhile(bool, reversed(last.trained))))
        return last.input_ids[:-size], last.input_ids[-size:]

    def _answer_ids(self, prompt_text: str, prompt: list[int], answer: str) -> list[int]:
        """The answer and its end as the model would generate them after `prompt`.

        Tokenised behind its prompt (SentencePiece treats the start of a text in its own way),
        unless a token would reach across the seam: generation starts after the prompt's last token,
        so there the answer is tokenised alone.
        """
        text = self._form.lead + answer + self._form.trail
        whole = prompt_ids(prompt_text + text, self.tokenizer)
        seam = len(prompt)
        return [*(whole[seam:] if whole[:seam] == prompt else self.tokenizer.encode(text)), self._form.end]


def _check(messages: Sequence[Message]) -> None:
    """DataError for roles out of order and for empty answers."""
    faults = order_faults(messages)
    faults += [
        f"message {i} is an empty answer"
        for i, m in enumerate(messages)
        if m.role == "assistant" and not m.content.strip()
    ]
    if faults:
        raise DataError("not a conversation to train on: " + "; ".join(faults))


def _trimmed(message: Message) -> str:
    """Return the content; an answer without the white space around it, so that it begins where the prompt ends."""
    return message.content.strip() if message.role == "assistant" else message.content


def prompt_ids(text: str, tokenizer: Tokenizer) -> list[int]:
    """The tokens that an engine makes of a rendered prompt: control tokens read as such, the begin
    token first if the model wants one, and not twice if the template wrote it already (Ollama cuts
    it from the text in that case).
    """
    bos = tokenizer.encode("", bos=True)[:1]
    ids = tokenizer.encode(text, special=True)
    return ids if ids[:1] == bos else [*bos, *ids]


@dataclass(frozen=True)
class _AnswerForm:
    """How a template writes an answer into the history: white space before and after it, then the end-of-turn token."""

    lead: str
    trail: str
    end: int


def _answer_form(render: Render, tokenizer: Tokenizer) -> _AnswerForm:
    """Read off a probe: the text after an answer in the history. A template that ends no turn there
    gets the vocabulary's own end.
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
            "the template ends no turn, and the vocabulary has no end-of-sequence token: an answer could never stop"
        )
    return _AnswerForm(lead, "", tokenizer.eos)


def _row_id(id: str, rows: list[TokenRow]) -> str:
    return f"{id}#{len(rows) + 1}" if rows else id
