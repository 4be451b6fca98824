"""The sample files: each as its program writes it, with odd cases; made up. Binary ones are made here."""

import sqlite3
import zipfile
from pathlib import Path

import pytest

from fine_tuning.data_collection.conversation_logger import ConversationLogger

SAMPLES = Path(__file__).parent / "samples"


@pytest.fixture
def log(home) -> ConversationLogger:
    return ConversationLogger()


@pytest.fixture
def sample(tmp_path):
    """sample(name): where the sample lies; a binary one is made."""

    def at(name: str) -> Path:
        made = {
            "llm.db": _llm,
            "llm_new.db": _llm_new,
            "webui.db": _webui,
            "questions.parquet": _parquet,
            "slack.zip": _zip,
        }
        if name not in made:
            return SAMPLES / name
        return tmp_path / name if (tmp_path / name).exists() else made[name](tmp_path / name)

    return at


def _database(path: Path, script: str) -> Path:
    with sqlite3.connect(path) as database:
        database.executescript(script)
    database.close()
    return path


def _llm(path: Path) -> Path:
    return _database(
        path,
        """
        CREATE TABLE conversations (id TEXT PRIMARY KEY, name TEXT, model TEXT);
        CREATE TABLE responses (id TEXT PRIMARY KEY, model TEXT, prompt TEXT, system TEXT, prompt_json TEXT, options_json TEXT,
            response TEXT, response_json TEXT, conversation_id TEXT REFERENCES conversations(id), duration_ms INTEGER, datetime_utc TEXT);
        INSERT INTO conversations VALUES ('c1', 'Pets', 'gpt-4o-mini');
        INSERT INTO responses VALUES
            ('r2', 'gpt-4o-mini', 'A better one?', NULL, NULL, NULL, 'Pixel.', NULL, 'c1', 5, '2024-07-01T10:01:00'),
            ('r1', 'gpt-4o-mini', 'A name for a cat?', 'Be brief.', NULL, NULL, 'Mia.', NULL, 'c1', 5, '2024-07-01T10:00:00'),
            ('r3', 'gpt-4o-mini', 'Use the tool.', NULL, NULL, NULL, '', NULL, 'c2', 5, '2024-07-02T10:00:00'),
            ('r4', 'gpt-4o-mini', '', NULL, NULL, NULL, 'The tool says 5.', NULL, 'c2', 5, '2024-07-02T10:00:01');
        """,  # noqa: E501
    )


def _llm_new(path: Path) -> Path:
    return _database(
        _llm(path),
        """
        CREATE TABLE messages (hash TEXT PRIMARY KEY, parent_hash TEXT, role TEXT, provider_metadata TEXT);
        CREATE TABLE parts (id INTEGER PRIMARY KEY, message_hash TEXT, position INTEGER, type TEXT, tool_name TEXT, text TEXT,
            payload TEXT);
        CREATE TABLE threads (id TEXT PRIMARY KEY, name TEXT, tip_message_hash TEXT, forked_from TEXT, datetime_utc TEXT);
        CREATE TABLE turns (id TEXT PRIMARY KEY, thread_id TEXT, parent_message_hash TEXT, tip_message_hash TEXT, model TEXT,
            datetime_utc TEXT);
        DELETE FROM responses;
        INSERT INTO messages VALUES ('h1', NULL, 'user', NULL), ('h2', 'h1', 'assistant', NULL);
        INSERT INTO parts VALUES (1, 'h1', 0, 'text', NULL, 'Which planet has rings?', NULL),
            (2, 'h2', 0, 'reasoning', NULL, 'Saturn.', NULL),
            (3, 'h2', 1, 'text', NULL, 'Saturn has rings.', NULL);
        INSERT INTO threads VALUES ('t1', 'Planets', 'h2', NULL, '2026-02-01T10:00:00'),
            ('t2', 'Broken', 'gone', NULL, '2026-02-02T10:00:00');
        INSERT INTO turns VALUES ('u1', 't1', 'h1', 'h2', 'qwen3', '2026-02-01T10:00:00+00:00');
        """,  # noqa: E501
    )


def _webui(path: Path) -> Path:
    return _database(
        path,
        """
        CREATE TABLE chat (id VARCHAR(255) PRIMARY KEY, user_id VARCHAR(255), title TEXT, chat JSON, created_at BIGINT, archived BOOLEAN);
        INSERT INTO chat VALUES ('w1', 'u', 'Sky', '{"history": {"messages": {
            "1": {"id": "1", "parentId": null, "role": "user", "content": "Why is the sky blue?", "timestamp": 1720000000},
            "2": {"id": "2", "parentId": "1", "role": "assistant", "content": "Air scatters blue light.", "timestamp": 1720000005}},
            "currentId": "2"}}', 1720000000, 0), ('w2', 'u', 'Spoilt', '{"history": ', 1720000000, 0);
        """,  # noqa: E501
    )


def _parquet(path: Path) -> Path:
    import pyarrow
    from pyarrow import parquet

    rows = {
        "Question": ["What is bread made of?", "What is glass made of?", None],
        "Answer": ["Flour and water.", "Sand.", "No question."],
    }
    parquet.write_table(pyarrow.table(rows), path)
    return path


def _zip(path: Path) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for each in sorted((SAMPLES / "slack").rglob("*.json")):
            archive.write(each, each.relative_to(SAMPLES / "slack").as_posix())
        archive.writestr("__MACOSX/._users.json", b"\0\5\26\7")
        archive.writestr("../outside.json", b"[]")
    return path
