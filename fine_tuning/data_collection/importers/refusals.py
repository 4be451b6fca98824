"""Say why a file is in no known format: what it contains, what it lacks, and what can be done."""

from fine_tuning.data_collection.importers.chats import kind
from fine_tuning.data_collection.importers.columns import names_in
from fine_tuning.data_collection.importers.people_records import has_text
from fine_tuning.data_collection.importers.records import Look

NAME_IT = "Name the format with --format, or use --as document to make questions from a text"
"""The advice in messages about a file in no known format."""
THE_LIST = "docs/importing.md lists all formats"

_BOTH = "write both into one table, with the columns question and answer"
_NO_ANSWER = f"It holds the wordings of a chatbot's intents without the answers: {_BOTH}"
_OWN_FORMAT = "Convert it to JSON or CSV, or use --format module:function for a function of your own"
_NO_SPEAKER = (
    "It does not say who wrote each text: give each message a role (user or assistant), or a sender and a time"
)
# keys of files that hold no chats, and what can be done with them
_KNOWN = (
    ({"ID", "Timestamp", "Contents"}, "Discord's own download has only what you wrote: use DiscordChatExporter"),
    *(({key}, _NO_ANSWER) for key in ("sampleUtterances", "userSays")),
    ({"document_tokens", "annotations"}, "Use the simplified form of Natural Questions"),
    ({"text", "label"}, "Labels are classes. If they are answers, name the columns question and answer"),
    ({"ts", "type", "say"}, "This is what Cline's page shows: import api_conversation_history.json beside it"),
    ({"chat_message_join", "handle"}, "It is the Mac's chat.db: export it as text with imessage-exporter"),
    ({"cells", "nbformat"}, "A notebook holds no chat: export the chat from the program that you chatted in"),
)
# the formats that are most likely meant, by layout
_NEAREST = {
    "text": 'lines that begin with "User:" and "Assistant:", or with names, and questions as headings',
    "database": "tables with a role and a content, or with a question and an answer",
}
_OF_RECORDS = 'messages with a "role" and a "content", a "question" with an "answer", or a sender, a text and a time'


def refusal(found: Look, name: str) -> str:
    """Return the message about the file `name`, which is in no known format."""
    head = f"{name} is in no format that byoai knows: it contains {told(found)}"
    if advice := _advice(found):
        return f"{head}. {advice}"
    lacks = _missing(found) or f"It needs {_NEAREST.get(found.layout, _OF_RECORDS)}"
    return f"{head}. {lacks} ({THE_LIST}). {NAME_IT}"


def told(found: Look) -> str:
    """Return what a file contains, in a few words."""
    if found.layout == "text":
        first = next((line.strip() for line in found.lines if line.strip()), "")
        return f"text that begins {first[:60]!r}" if first else "nothing"
    names = {
        "array": "a JSON array",
        "lines": "JSON lines",
        "object": "a JSON object",
        "table": "a table",
        "parquet": "a table",
        "xml": "XML elements",
        "mail": "mails",
        "database": "a database",
    }
    record = found.sample[0] if found.sample else None
    keys = (
        f" of {', '.join(map(str, list(record)[:12]))}"
        if isinstance(record, dict)
        else f" of {kind(record)}"
        if found.sample
        else " without a whole record"
    )
    return f"{names[found.layout]}{keys}"[:300]


def _advice(found: Look) -> str:
    """Return the advice for a file of a kind that is recognised but cannot be read; "" for any other file."""
    lines = [line.strip() for line in found.lines if line.strip()]
    start = lines[0].lower() if lines else ""
    if start.startswith(("<!doctype html", "<html")):
        return f"If it is a chat, export it as JSON or text instead. {NAME_IT}"
    if start.startswith("<") or found.layout == "xml":
        return _OWN_FORMAT
    if start.startswith("## intent:"):
        return _NO_ANSWER
    if any(" --> " in line for line in lines[:20]):
        return "Subtitles do not say who speaks, so they hold no questions and answers"
    keys = {str(key) for record in found.sample if isinstance(record, dict) for key in record}
    return next((advice for some, advice in _KNOWN if some <= keys), "")


def _missing(found: Look) -> str:
    """Return what the first record lacks; "" if that is unclear."""
    record = next((each for each in found.sample if isinstance(each, dict)), None)
    if not found.sample and found.layout in ("lines", "array", "object"):
        return "It does not begin with valid JSON: names and texts must be in double quotes"
    if record is None or found.layout == "database":
        return ""
    asked, answered = names_in(record)
    if asked and not answered:
        return f'It has a question ({asked}) without an answer: give the field of the answers the name "answer"'
    if answered and not asked:
        return f'It has an answer ({answered}) without a question: give the field of the questions the name "question"'
    if found.layout == "table":
        return "Give the first row the names of the columns, such as question and answer"
    return _NO_SPEAKER if has_text(record) else ""
