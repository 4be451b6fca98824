"""Let a model of the engine judge the question-answer pairs that were made from a document."""

from collections.abc import Callable

from fine_tuning.conversation import Message
from fine_tuning.engines.base import ChatOptions, Engine

_PROMPT = """Passage:
{passage}

Question: {question}
Answer: {answer}

Does the passage say that this answer to this question is right and complete? Reply with one word: yes or no."""


def judge_with(engine: Engine, tag: str) -> Callable[[str, str, str], bool]:
    """Return a function of (passage, question, answer) that asks a model whether the passage supports the answer.

    `tag` is the model. The function returns True if the model's reply begins with "yes", and raises
    EngineError if the engine fails.
    """
    options = ChatOptions(temperature=0, seed=0, max_tokens=400)  # enough for models that think first

    def judge(passage: str, question: str, answer: str) -> bool:
        prompt = _PROMPT.format(passage=passage, question=question, answer=answer)
        said = "".join(chunk.text for chunk in engine.chat(tag, [Message(role="user", content=prompt)], options))
        return said.strip(" \n*_\"'.").casefold().startswith("yes")

    return judge
