"""Read chats from SQLite files: the logs of the program `llm` (`logs.db`), and Open WebUI's `webui.db`.

Both the old and the new tables of `llm` are read. The files are not changed.
"""

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby

from fine_tuning.data_collection.importers.chats import ROLES, BadRecord, Chat, Fault, Said, has, list_in, moment
from fine_tuning.data_collection.importers.open_webui import convert
from fine_tuning.data_collection.importers.shape import NOT_AS_EXPECTED, Importer, Source
from fine_tuning.data_collection.importers.sqlite_records import connected
from fine_tuning.json_values import parse_json

_PARTS = "SELECT type, text, payload, tool_name FROM parts WHERE message_hash = ? ORDER BY position"


def _fits_llm(found: object) -> bool:
    return has(found, "responses", "conversations") and {"prompt", "response", "conversation_id"} <= set(
        list_in(found, "responses")
    )


def _read_llm(source: Source) -> Iterator[Chat | Fault]:
    known = source.found.sample[0]
    with connected(source.member) as database:
        columns = [
            f"{name} AS {name}" if name in known["responses"] else f"NULL AS {name}"
            for name in ("system", "reasoning", "datetime_utc", "model")
        ]
        rows = database.execute(
            f"SELECT id, prompt, response, conversation_id, {', '.join(columns)} FROM responses ORDER BY "
            "conversation_id, datetime_utc, id"
        )
        for conversation, group in groupby(rows, key=lambda row: row["conversation_id"] or row["id"]):
            yield Chat(list(_responses(group)), str(conversation), place=f"conversation {conversation}")
        if {"threads", "messages", "parts", "turns"} <= set(known):
            for thread in database.execute("SELECT id, tip_message_hash FROM threads ORDER BY datetime_utc, id"):
                try:
                    yield Chat(
                        _thread(database, thread["tip_message_hash"]), str(thread["id"]), place=f"thread {thread['id']}"
                    )
                except BadRecord as error:
                    yield Fault(f"thread {thread['id']}", f"expected {error}")


def _responses(rows: Iterable[sqlite3.Row]) -> Iterator[Said]:
    system = ""
    for row in rows:
        if row["system"] and str(row["system"]) != system:
            system = str(row["system"])
            yield Said("system", system)
        time, model = moment(row["datetime_utc"]), str(row["model"] or "")
        if row["prompt"]:  # empty where the result of a tool was sent
            yield Said("user", str(row["prompt"]), time)
        yield Said("assistant", str(row["response"] or ""), time, str(row["reasoning"] or ""), model)


def _thread(database: sqlite3.Connection, tip: object) -> Sequence[Said]:
    found: list[Said] = []
    seen: set[object] = set()
    while tip and tip not in seen:
        seen.add(tip)
        message = database.execute("SELECT role, parent_hash FROM messages WHERE hash = ?", (tip,)).fetchone()
        if message is None:
            raise BadRecord(f"a message {tip}")
        turn = database.execute(
            "SELECT datetime_utc, model FROM turns WHERE tip_message_hash = ? ORDER BY datetime_utc", (tip,)
        ).fetchone()
        role = ROLES.get(str(message["role"]))
        if role is None:
            raise BadRecord(f"a role (user, assistant, system, tool), found {message['role']!r}")
        texts: dict[str, list[str]] = {"text": [], "reasoning": []}
        parts: list[object] = []
        for part in database.execute(_PARTS, (tip,)):
            if part["type"] in texts and part["text"]:
                texts[part["type"]].append(str(part["text"]))
            else:
                parts.append({key: part[key] for key in ("type", "tool_name", "payload") if part[key]})
        time, model = (moment(turn["datetime_utc"]), str(turn["model"] or "")) if turn else ("", "")
        found.append(Said(role, "\n\n".join(texts["text"]), time, "\n\n".join(texts["reasoning"]), model, parts))
        tip = message["parent_hash"]
    return found[::-1]


def _fits_webui(found: object) -> bool:
    return has(found, "chat") and {"id", "chat", "title"} <= set(list_in(found, "chat"))


def _read_webui(source: Source) -> Iterator[Chat | Fault]:
    with connected(source.member) as database:
        for row in database.execute("SELECT id, chat FROM chat ORDER BY rowid"):
            place = f"chat {row['id']}"
            try:
                for chat in convert({"id": row["id"], "chat": parse_json(row["chat"])}, source):
                    yield Chat(chat.said, chat.id, chat.joint, place)
            except BadRecord as error:
                yield Fault(place, f"expected {error}")
            except NOT_AS_EXPECTED as error:
                yield Fault(place, f"expected a chat with its history, found another structure ({error})")


LLM = Importer("logs of llm (logs.db)", _fits_llm, _read_llm, frozenset({"database"}))
OPEN_WEBUI_DATABASE = Importer("Open WebUI's webui.db", _fits_webui, _read_webui, frozenset({"database"}))
