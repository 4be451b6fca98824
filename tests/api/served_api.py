"""A real server of the API in a thread, and the official client of OpenAI for it."""

import time
from collections.abc import Callable, Iterator
from typing import Any

import openai
from ports import unused_port
from served_app import serving

from fine_tuning.api.app import create_app
from fine_tuning.api.security import Access, Door, Token
from fine_tuning.config import load_config
from fine_tuning.conversation import Turn
from fine_tuning.data_collection.conversation_logger import ConversationLogger
from fine_tuning.integration.service import Service

FRANCE = [{"role": "user", "content": "What is the capital of France?"}]
LONG = [{"role": "user", "content": "Write down the numbers from 1 to 500, separated by commas."}]
ON = {"X-Byoai-Record": "on"}
PATIENCE = 60.0  # seconds


class Served:
    """A server of the API in a thread, and what a test wants of it."""

    def __init__(self, service: Service, port: int) -> None:
        self.service, self.url = service, f"http://127.0.0.1:{port}"
        self.open = self.client("anything")

    def client(self, key: str) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key=key, max_retries=0, timeout=120)

    def recording(self) -> openai.OpenAI:
        return self.client(Token().read())

    def chat(self, client: openai.OpenAI | None = None, **more: Any) -> Any:
        asked = {"model": "live", "messages": FRANCE, "temperature": 0, "max_tokens": 12, **more}
        return (client or self.open).chat.completions.create(**asked)

    def log(self) -> ConversationLogger:
        return ConversationLogger(load_config().log_path)

    def turns(self) -> list[Turn]:
        return self.log().turns(include_excluded=True)


def serve(service: Service) -> Iterator[Served]:
    port = unused_port()
    with serving(Door(create_app(service), Access(port), Token()), port):
        yield Served(service, port)


def new_turns(served: Served, act: Callable[[], object]) -> list[Turn]:
    """What the log holds after `act` and did not before."""
    before = {turn.id for turn in served.turns()}
    act()
    return [turn for turn in served.turns() if turn.id not in before]


def streamed(chunks: Any) -> tuple[str, str, Any]:
    """The text, why it ended, and the usage."""
    told = list(chunks)
    choices = [choice for chunk in told for choice in chunk.choices]
    text = "".join((choice.delta.content if hasattr(choice, "delta") else choice.text) or "" for choice in choices)
    return text, choices[-1].finish_reason, told[-1].usage


def wait_for(true: Callable[[], object], seconds: float = PATIENCE) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)
