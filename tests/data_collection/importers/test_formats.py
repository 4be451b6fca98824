"""Each sample file gives exactly these turns."""

import gzip
import json
import os
import subprocess
import sys
from datetime import UTC, datetime

import pytest

from fine_tuning.data_collection.cleaning.clean_turns import CleanTurn, clean_turn
from fine_tuning.data_collection.cleaning.turn_decisions import CleanSettings
from fine_tuning.data_collection.importers.html_text import text_of_html
from fine_tuning.data_collection.importers.importing import Wanted, import_files
from fine_tuning.data_collection.importers.table import IMPORTERS
from fine_tuning.data_collection.preferences import preferences_of
from fine_tuning.errors import ConfigError, DataError


def at(text):
    return datetime.fromisoformat(text).replace(tzinfo=UTC).isoformat(timespec="milliseconds") if text else ""


# Sample: format, what is asked for besides, turns (question, answer, time, facts), sessions by turn, what is set aside.
EXPECTED = {
    "messages.jsonl": (
        "messages",
        {},
        [
            ("When does the library open?", "At nine on weekdays.", "", {"system": "Answer briefly."}),
            ("And on Sundays?", "It is closed on Sundays.", "", {"system": "Answer briefly."}),
            (
                "What is on this picture?",
                "A red bicycle.",
                "",
                {
                    "parts": [
                        {
                            "role": "user",
                            "part": {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}},
                        }
                    ]
                },
            ),
            (
                "What is the weather in Oslo?",
                "It rains in Oslo, at 4 degrees.",
                "",
                {
                    "parts": [
                        {
                            "role": "assistant",
                            "part": {
                                "tool_calls": [
                                    {
                                        "id": "call_1",
                                        "type": "function",
                                        "function": {"name": "weather", "arguments": '{"city": "Oslo"}'},
                                    }
                                ]
                            },
                        },
                        {"role": "tool", "part": "4 degrees, rain"},
                    ]
                },
            ),
        ],
        [0, 0, 1, 2],
        ["line 3, column 58: expected JSON", "line 5: expected a role"],
    ),
    "message_list.json": (
        "message-list",
        {},
        [("Is the pool heated?", "Yes, to 26 degrees.", "", {}), ("All year?", "From May to September.", "", {})],
        [0, 0],
        [],
    ),
    "sharegpt.jsonl": (
        "sharegpt",
        {},
        [
            ("Explain what a hash table is.", "It finds a value by a number made of its key.", "", {}),
            ("Hello", "Ahoy!", "", {"system": "You are a pirate."}),
            ("Where are you?", "At sea.", "", {"system": "You are a pirate."}),
            ("Tell me a joke.", "A byte walks into a bar.", "", {"opening": "How can I help?"}),
        ],
        [0, 1, 1, 2],
        ["line 4: expected conversations as a list of objects, found text"],
    ),
    "alpaca.json": (
        "alpaca",
        {},
        [
            ("Translate to French.\n\nGood morning", "Bonjour", "", {}),
            ("Name a prime number.", "Seven is a prime number.", "", {}),
            ("What time is it?", "It is noon.", "", {"system": "Remember everything."}),
            ("What was my first question?", "You asked for the time.", "", {"system": "Remember everything."}),
        ],
        [0, 1, 2, 2],
        ["record 5: expected instruction as text, found a list"],
    ),
    "prompt_completion.jsonl": (
        "prompt-completion",
        {},
        [
            ("How tall is the tower?", "It is 96 metres tall.", "", {}),
            ("Who cleans the kitchen?", "Not my business.", "", {"rating": "down"}),
            ("When is lunch?", "Lunch is at half past twelve.", "", {}),
        ],
        [0, 1, 2],
        [],
    ),
    "preference.jsonl": (
        "preference",
        {},
        [
            (
                "How do I reset the router?",
                "Hold the button for ten seconds.",
                "",
                {"original_response": "No idea, really."},
            ),
            ("Best season?", "Autumn, for its colours.", "", {"original_response": "All seasons are the same."}),
            ("What do bees make?", "Honey.", "", {}),
            ("And wax?", "They make wax too.", "", {"original_response": "That is not a question."}),
            ("How cold is a fridge?", "Seven degrees.", "", {"original_response": "Very cold."}),
        ],
        [0, 1, 2, 2, 3],
        ["line 4: expected a rejected answer that differs"],
    ),
    "dolly.jsonl": (
        "dolly",
        {},
        [
            (
                "When was the bridge built?\n\nThe bridge was built in 1911 of steel.",
                "It was built in 1911.",
                "",
                {"task": "closed_qa"},
            ),
            ("Give me three fruits.", "Apple, pear and plum.", "", {"task": "brainstorming"}),
        ],
        [0, 1],
        [],
    ),
    "oasst_trees.jsonl": (
        "oasst",
        {},
        [
            ("What is rain?", "Drops of water that fall from clouds.", "2023-01-02T10:00:00", {}),
            ("Why do they fall?", "They grow too heavy.", "", {}),
        ],
        [0, 0],
        [],
    ),
    "oasst_messages.jsonl": (
        "oasst-messages",
        {},
        [("Name a river.", "The Elbe.", "2023-02-01T09:00:00", {}), ("Name a lake.", "Lake Constance.", "", {})],
        [0, 1],
        [],
    ),
    "questions.csv": (
        "columns",
        {},
        [
            ("Wann öffnet das Museum?", "Um zehn Uhr; montags nie.", "", {}),
            ("Was kostet\nder Eintritt?", "Zwölf Euro.", "", {}),
            ('Gibt es "Rabatt"?', "Ja, für Gruppen.", "", {}),
        ],
        [0, 1, 2],
        ["line 5: expected 3 columns, found 1"],
    ),
    "questions.tsv": (
        "columns",
        {},
        [("Is there a lift?", "Yes, by the main door.", "", {}), ("Is there wifi?", "Yes, it is free.", "", {})],
        [0, 1],
        [],
    ),
    "questions.parquet": (
        "columns",
        {},
        [("What is bread made of?", "Flour and water.", "", {}), ("What is glass made of?", "Sand.", "", {})],
        [0, 1],
        [],
    ),
    "dialogue.txt": (
        "text",
        {},
        [
            ("My printer is stuck.\nIt blinks red.", "Open the rear cover,\n\nand remove the paper.", "", {}),
            ("Done. Thanks!", "You are welcome.", "", {}),
            ("Where is the manual?", "In the drawer: the second one.", "", {}),
        ],
        [0, 0, 1],
        [],
    ),
    "speakers.txt": (
        "text",
        {"me": "Kim"},
        [
            ("Are you coming tonight?", "Yes, at eight.\nI bring the salad.", "", {}),
            ("Great.\nMe too!", "See you both.", "", {}),
        ],
        [0, 0],
        [],
    ),
    "MyActivity.html": (
        "gemini-html",
        {},
        [
            ("How big is\nthe sea?", "Very big.", "2026-03-01T06:46:09", {}),
            (
                "Why is it salty?",
                "Rivers carry **salt**.\n\n- slowly\n\nFor ages.",
                "2026-03-02T14:05:00",
                {},
            ),
        ],
        [0, 1],
        ["activity 4: expected a prompt, a time and an answer"],
    ),
    "message_1.json": (
        "messenger",
        {"me": "Kim Müller"},
        [("Café tonight?\nOr tea? 🍵", "Tea, at eight – see you!", "2023-11-14T22:16:40", {})],
        [0],
        ["record 3: expected content as text, found a list"],
    ),
    "passages.json": (
        "passages",
        {},
        [
            ("How deep is the lake?\n\nThe lake is forty metres deep.", "forty metres", "", {}),
            ("Which fish live there?\n\nPerch live there.", "Perch", "", {}),
            ("How deep is the pond?\n\nThe pond is two metres deep.", "Two metres.", "", {}),
            ("In feet?", "About seven.", "", {}),
        ],
        [0, 1, 2, 2],
        ["record 3: expected an answer to each of 1 questions, found 0"],
    ),
    "nested.json": (
        "nested",
        {},
        [
            ("How long does bread bake?", "Forty minutes.", "", {}),
            ("And rolls?", "Twenty minutes.", "", {}),
            ("Which mode?", "Top and bottom heat.", "", {}),
        ],
        [0, 1, 2],
        [],
    ),
    "dialogues.jsonl": (
        "dialogues",
        {},
        [
            ("How deep is the lake?", "Forty metres.", "", {}),
            ("And the pond?", "Two.", "", {}),
            ("Do you swim?", "Every day.", "", {"system": "Be brief."}),
            ("I cough.", "Drink tea.", "", {"opening": "Good morning."}),
            ("Lunch?", "At noon.\n\nAt the lake.", "", {}),
            ("do you fish ?", "yes", "", {}),
        ],
        [0, 0, 1, 2, 3, 4],
        ["line 5: expected two speakers, found 3: say with --me NAME"],
    ),
    "people.jsonl": (
        "people",
        {"me": "kim"},
        [
            ("How deep is the lake?", "Forty metres.", "2023-11-14T22:14:20", {}),
            ("And the pond?", "Two.", "2023-11-15T09:01:00", {}),
            ("Which fish?", "Perch & pike.", "2023-11-15T09:21:00", {}),
        ],
        [0, 1, 2],
        ["line 8: expected a text as text, found a list"],
    ),
    "irc.log": (
        "chat-log",
        {"me": "kim"},
        [
            ("How deep is the lake?", "Forty metres.", "2024-01-15T10:01:00", {}),
            ("Is it <cold>?", "Yes: four degrees.", "2024-01-15T10:03:00", {}),
            ("And now?", "Three.", "2024-01-16T09:01:00", {}),
        ],
        [0, 0, 1],
        [],
    ),
    "line.txt": (
        "chat-log",
        {"me": "Kim"},
        [
            ("Lunch?", "At noon.\nAt the lake.", "2026-09-25T21:05:00", {}),
            ("", "Nice.", "2026-09-25T21:11:00", {"parts": [{"role": "user", "part": {"media": "[Sticker]"}}]}),
            ("Where are you?", "Here.", "2026-09-26T00:01:00", {}),
        ],
        [0, 0, 0],
        [],
    ),
    "cherry_studio.json": (
        "cherry-studio",
        {},
        [
            (
                "How deep is the lake?",
                "Forty metres.",
                "2025-05-01T10:00:05",
                {
                    "model": "small",
                    "thoughts": "Forty.",
                    "parts": [
                        {"role": "user", "part": {"id": "b2", "messageId": "m1", "type": "image", "url": "lake.png"}}
                    ],
                },
            )
        ],
        [0],
        [],
    ),
    "corpus.yml": (
        "dialogues",
        {},
        [
            ("How deep is the lake?", "Forty metres.", "", {}),
            ("Which fish live there?", "Perch and pike.", "", {}),
            ("Any carp?", "No", "", {}),
        ],
        [0, 1, 1],
        ["record 3: expected a dialogue"],
    ),
    "vscode_chat.json": (
        "vscode",
        {},
        [
            (
                "How deep is the lake?",
                "It says in `lake.txt`: forty metres.",
                "2023-11-14T22:13:20",
                {
                    "model": "copilot/small",
                    "thoughts": "See the map.",
                    "parts": [{"role": "assistant", "part": {"kind": "mcpServersStarting", "didStartServerIds": []}}],
                    "rating": "up",
                },
            ),
            (
                "Write it down.",
                "I will.\n\nDone.",
                "",
                {"parts": [{"role": "assistant", "part": {"kind": "textEditGroup", "edits": [[{"text": "40"}]]}}]},
            ),
        ],
        [0, 0],
        ["record 3: expected a message as text, found a list"],
    ),
    "kobold.json": (
        "kobold",
        {},
        [
            ("How deep is the lake?", "Forty metres.", "", {"system": "Answer briefly."}),
            ("And the pond?", "Two.", "", {"system": "Answer briefly."}),
        ],
        [0, 0],
        [],
    ),
    "Hangouts.json": (
        "hangouts",
        {"me": "kim"},
        [
            ("How deep is the lake?", "Forty metres.\nCold.", "2023-11-14T22:14:20", {}),
            (
                "",
                "Nice.",
                "2023-11-14T22:14:40",
                {"parts": [{"role": "user", "part": {"embed_item": {"type": ["PLUS_PHOTO"]}}}]},
            ),
            ("And the pond?", "Two.", "2023-11-14T22:13:21", {}),
        ],
        [0, 0, 1],
        ["record 3: expected segments as a list of objects, found text"],
    ),
    "tickets.json": (
        "tickets",
        {},
        [
            (
                "How deep is the lake?",
                "Forty metres.",
                "2024-01-15T10:02:00",
                {
                    "parts": [
                        {"role": "user", "part": {"file_name": "lake.png"}},
                        {"role": "tool", "part": "Robin again."},
                    ]
                },
            ),
            ("And the **pond**?", "Two.", "2023-11-14T22:14:20", {}),
            ("Which fish live there?", "Perch.", "2024-01-16T10:01:00", {}),
            ("Any pike?", "Few.", "2024-01-16T10:03:00", {}),
        ],
        [0, 1, 2, 2],
        ["record 4: expected a body as text, found a list"],
    ),
    "replies.csv": (
        "replies",
        {},
        [
            ("How deep is the lake?", "Forty metres.\n\nAnd cold.", "2017-10-31T22:10:00", {}),
            ("Which fish live there?", "Perch.", "2017-10-31T22:14:00", {}),
        ],
        [0, 0],
        ["line 9: expected a message with an id of its own"],
    ),
    "utterances.jsonl": (
        "replies",
        {},
        [("Do you swim?", "Every day.", "", {}), ("In the lake?", "In the pond.", "", {})],
        [0, 0],
        [],
    ),
    "faq_page.html": (
        "json-ld",
        {},
        [
            ("How deep is the lake?", "Forty **metres**.", "", {}),
            ("Which fish live there?", "Perch & pike.", "", {}),
        ],
        [0, 1],
        ["line 9: expected JSON"],
    ),
    "calls.jsonl": (
        "calls",
        {},
        [
            ("How deep is the lake?", "Forty metres.", "2024-01-15T10:00:00", {"system": "Answer briefly."}),
            ("And the pond?", "Two.", "", {"model": "small"}),
            ("Which fish?", "Perch.", "", {"rating": "down"}),
            ("Any pike?", "Few.", "", {}),
            ("How cold?", "Four degrees.", "", {"model": "small"}),
        ],
        [0, 1, 2, 3, 4],
        ["line 4: expected a call of a model", "line 7: expected a role"],
    ),
    "direct-messages.js": (
        "nested",
        {"me": "22"},
        [
            ("How deep is the lake?", "Forty metres.", "2024-01-15T10:01:00", {}),
            ("Which fish live there?", "Perch.", "2024-01-15T10:03:00", {}),
            ("And the pond?", "Two.", "2024-01-15T10:05:00", {}),
        ],
        [0, 0, 1],
        ["a chat: expected a text as text, found a list"],
    ),
    "chatbot_intents.json": (
        "intents",
        {},
        [
            ("How deep is the lake?", "Forty metres.", "", {}),
            ("The depth?", "Forty metres.", "", {}),
            ("Which fish?", "Perch.", "", {}),
            ("And the pond?", "Two metres.", "", {}),
        ],
        [0, 1, 2, 3],
        ["record 4: expected an intent with wordings and answers"],
    ),
    "annotations.json": (
        "annotations",
        {},
        [("How deep is the lake?", "Forty metres.\n\nCold.", "", {}), ("Which fish?", "Perch.", "", {})],
        [0, 1],
        ["record 3: expected a task with a question, and an annotation with an answer"],
    ),
    "faq.md": (
        "faq",
        {},
        [
            ("How deep is the lake?", "Forty metres.\n\n```sh\n# is this a comment?\n```", "", {}),
            ("Which fish live there?", "Perch and pike.\n\n### Large ones\n\nYes.", "", {}),
        ],
        [0, 1],
        [],
    ),
    "aider.chat.history.md": (
        "aider",
        {},
        [
            (
                "Write a function\n\nthat gives the depth.",
                "It is here:\n\n```python\n# metres\nDEPTH = 40\n```",
                "2025-12-03T14:43:45",
                {
                    "parts": [
                        {"role": "tool", "part": "Aider v0.86.1\nModel: small"},
                        {"role": "tool", "part": "Added lake.py to the chat."},
                        {"role": "tool", "part": "Tokens: 2k sent, 100 received."},
                    ]
                },
            ),
            ("Is it deep?", "Yes.", "2025-12-03T14:43:45", {}),
            ("And the pond?", "Two metres.", "2025-12-04T09:00:00", {}),
        ],
        [0, 0, 1],
        [],
    ),
    "author.csv": (
        "message-list",
        {},
        [
            ("How long does bread bake?", "Forty minutes.", "2025-05-01T10:00:05", {}),
            ("And rolls?", "Twenty minutes.", "2025-05-02T10:00:05", {}),
        ],
        [0, 1],
        [],
    ),
    "named_speakers.json": (
        "messages",
        {},
        [("How deep is the lake?", "Forty metres.", "2024-05-01T10:00:05", {"opening": "I am Ada."})],
        [0],
        [],
    ),
    "intents.json": (
        "columns",
        {},
        [
            ("Hi", "Welcome!", "", {}),
            ("Hello", "How can I help?", "", {}),
            ("Good day", "Welcome!", "", {}),
            ("When do you open?", "At nine.", "", {}),
            ("When do you open?", "At nine, but at ten on Sundays.", "", {}),
        ],
        [0, 1, 2, 3, 4],
        [],
    ),
    "templated.jsonl": (
        "templated",
        {},
        [
            ("How deep is the lake?", "Forty metres.", "", {}),
            ("And the pond?", "Two.", "", {}),
            ("Which fish live there?", "Perch and pike.", "", {"system": "Answer briefly."}),
        ],
        [0, 0, 1],
        ["line 3: expected a text with the marks of both sides"],
    ),
    "byoai.jsonl": (
        "byoai",
        {},
        [
            (
                "Who waters the plants?",
                "Whoever comes in first on Monday.",
                "2026-01-01T10:00:00",
                {"model": "smollm2:135m", "rating": "up"},
            ),
            ("And on holidays?", "Nobody does.", "2026-01-01T10:01:00", {}),
        ],
        [0, 0],
        [],
    ),
    "chatgpt": (
        "chatgpt",
        {},
        [
            (
                "How long does bread bake?",
                "Forty minutes at 220 degrees.",
                "2023-11-14T22:13:40.250",
                {"model": "gpt-4o"},
            ),
            (
                "Is this one done?",
                "Yes, the crust is brown enough.",
                "2023-11-14T22:15:01",
                {
                    "model": "gpt-4o",
                    "parts": [
                        {
                            "role": "user",
                            "part": {
                                "content_type": "image_asset_pointer",
                                "asset_pointer": "file-service://file-abc",
                                "width": 10,
                                "height": 10,
                            },
                        },
                        {
                            "role": "assistant",
                            "part": {
                                "to": "python",
                                "content": {"content_type": "code", "language": "python", "text": "look()"},
                            },
                        },
                        {
                            "role": "assistant",
                            "part": {
                                "name": "python",
                                "content": {"content_type": "execution_output", "text": "brown"},
                            },
                        },
                    ],
                },
            ),
            ("Seven times eight?", "56.", "2024-03-09T16:00:01", {"model": "o3", "thoughts": "7*8=56"}),
        ],
        [0, 0, 1],
        ["conversations.json, record 3: expected a mapping of nodes"],
    ),
    "claude": (
        "claude",
        {},
        [
            (
                "When do I plant tulips?",
                "In autumn.\n\nOctober is best.",
                "2024-05-01T08:00:07.500",
                {
                    "thoughts": "Bulbs need cold.",
                    "parts": [
                        {
                            "role": "user",
                            "part": {
                                "attachment": {
                                    "file_name": "garden.txt",
                                    "file_size": 12,
                                    "file_type": "txt",
                                    "extracted_content": "bed one",
                                }
                            },
                        },
                        {"role": "assistant", "part": {"type": "tool_use", "name": "calendar", "input": {"month": 10}}},
                        {
                            "role": "assistant",
                            "part": {
                                "type": "tool_result",
                                "name": "calendar",
                                "content": [{"type": "text", "text": "ok"}],
                            },
                        },
                    ],
                },
            ),
            ("Old export, no blocks?", "Only text then.", "2023-09-01T08:00:03", {}),
        ],
        [0, 1],
        [],
    ),
    "MyActivity.json": (
        "gemini",
        {},
        [
            (
                "What is &lt;b&gt; in HTML?",
                "It makes text bold:\n\n```\n<b>bold</b>\n```",
                "2024-06-01T10:00:00",
                {"parts": [{"role": "user", "part": {"attachment": "page.html"}}]},
            ),
            (
                "How many legs has a spider?",
                "A spider has **eight** legs.\n\n- four left\n- four right",
                "2024-06-02T10:00:00",
                {},
            ),
        ],
        [0, 1],
        [],
    ),
    "open_webui.json": (
        "open-webui",
        {},
        [
            (
                "How hot for green tea?",
                "At 75 degrees.",
                "2024-07-03T09:46:50",
                {"model": "llama3.2:1b", "thoughts": "Green tea burns.", "system": "Be kind.", "rating": "up"},
            ),
            ("Old form?", "A list of messages.", "2023-11-14T22:13:21", {"model": "mistral:latest"}),
        ],
        [0, 1],
        [],
    ),
    "webui.db": (
        "open-webui-database",
        {},
        [("Why is the sky blue?", "Air scatters blue light.", "2024-07-03T09:46:45", {})],
        [0],
        ["chat w2: expected a chat with its history"],
    ),
    "1719000000000.conversation.json": (
        "lm-studio",
        {},
        [("What is a keel?", "The spine of a ship.", "2024-06-21T20:00:00", {"model": "qwen", "thoughts": "Ships."})],
        [0],
        [],
    ),
    "agnai.json": (
        "agnai",
        {},
        [
            (
                "How deep is the channel?",
                "Nine fathoms at low tide.",
                "2024-03-02T09:01:20",
                {
                    "system": "Wren is a keeper of charts in a harbour.",
                    "opening": "Ahoy! What shall we chart today?",
                },
            ),
            (
                "And the sand bar?",
                "Two fathoms, and it wanders.",
                "2024-03-02T09:30:30",
                {"system": "Wren is a keeper of charts in a harbour."},
            ),
        ],
        [0, 0],
        [],
    ),
    "amazon_q.json": (
        "amazon-q",
        {},
        [
            (
                "Which file holds the port?",
                "I look into the folder.\n\nIt is server.toml.",
                "2026-03-24T02:05:17",
                {
                    "parts": [
                        {
                            "role": "assistant",
                            "part": {"tool_uses": [{"id": "t1", "name": "fs_read", "args": {"path": "."}}]},
                        },
                        {
                            "role": "tool",
                            "part": {
                                "ToolUseResults": {
                                    "tool_use_results": [
                                        {"tool_use_id": "t1", "content": [{"Text": "server.toml"}], "status": "Success"}
                                    ]
                                }
                            },
                        },
                    ]
                },
            ),
            ("Which port is it?", "8080.", "", {}),
        ],
        [0, 0],
        [],
    ),
    "voiceflow.json": (
        "voiceflow",
        {},
        [
            ("Hours", "We open at nine.", "2025-05-01T10:01:01", {"opening": "Welcome to the library."}),
            ("And on Sundays?", "We are closed on Sundays.", "2025-05-01T10:02:01", {}),
        ],
        [0, 0],
        [],
    ),
    "voiceflow_turns.json": (
        "voiceflow-turns",
        {},
        [("What is a keel?", "The spine of a ship.", "2023-06-01T10:01:01", {"opening": "Ask me about boats."})],
        [0],
        [],
    ),
    "zed.json": (
        "zed",
        {},
        [
            (
                "What colour is a port buoy?",
                "Red.\n\nAt least in Europe.",
                "2025-09-01T08:00:00",
                {
                    "model": "claude-sonnet-4",
                    "thoughts": "In Europe.",
                    "parts": [
                        {
                            "role": "user",
                            "part": {"Mention": {"uri": {"File": {"abs_path": "/a.md"}}, "content": "Buoys"}},
                        },
                        {"role": "assistant", "part": {"ToolUse": {"id": "t", "name": "grep", "input": {}}}},
                    ],
                },
            ),
            ("Which knot makes a loop?", "A bowline.", "2025-05-01T08:00:00", {"thoughts": "Sailors."}),
            ("Wie heißt das Tau?", "Es heißt Schot.", "", {}),
            ("And in English?", "A sheet.", "", {}),
        ],
        [0, 1, 2, 2],
        [],
    ),
    "jan": (
        "jan",
        {},
        [
            (
                "Blue and yellow make?",
                "Green.",
                "2024-10-27T03:33:25",
                {
                    "thoughts": "Paint.",
                    "parts": [{"role": "user", "part": {"type": "image_url", "image_url": {"url": "file:///a.png"}}}],
                },
            )
        ],
        [0],
        [],
    ),
    "sillytavern.jsonl": (
        "sillytavern",
        {},
        [
            (
                "Is there a room?",
                "The last one, upstairs.",
                "2024-01-05T10:22:05.250",
                {"model": "mythomax", "opening": "Welcome to the inn!"},
            )
        ],
        [0],
        [],
    ),
    "text_generation_webui.json": (
        "text-generation-webui",
        {},
        [("What is 2 < 3?", "It is true.", "2024-01-05T10:20:00", {"opening": "How can I help you today?"})],
        [0],
        [],
    ),
    "llm.db": (
        "llm",
        {},
        [
            ("A name for a cat?", "Mia.", "2024-07-01T10:00:00", {"model": "gpt-4o-mini", "system": "Be brief."}),
            ("A better one?", "Pixel.", "2024-07-01T10:01:00", {"model": "gpt-4o-mini", "system": "Be brief."}),
            ("Use the tool.", "The tool says 5.", "2024-07-02T10:00:01", {"model": "gpt-4o-mini"}),
        ],
        [0, 0, 1],
        [],
    ),
    "llm_new.db": (
        "llm",
        {},
        [
            (
                "Which planet has rings?",
                "Saturn has rings.",
                "2026-02-01T10:00:00",
                {"model": "qwen3", "thoughts": "Saturn."},
            )
        ],
        [0],
        ["thread t2: expected a message gone"],
    ),
    "whatsapp_android.txt": (
        "whatsapp",
        {"me": "kim"},
        [
            (
                "Happy new year soon!\nDo you still have the drill?\nI need it on Tuesday.",
                "Yes: in the cellar.\nCome by at ten.",
                "2023-12-31T21:20:00",
                {},
            ),
            (
                "",
                "Nice picture",
                "2023-12-31T21:22:00",
                {"parts": [{"role": "user", "part": {"media": "<Media omitted>"}}]},
            ),
            ("I am at your door", "Coming!", "2024-01-02T08:01:00", {}),
        ],
        [0, 0, 1],
        [],
    ),
    "whatsapp_ios.txt": (
        "whatsapp",
        {"me": "Kim"},
        [
            ("Guten Rutsch!", "Danke, dir auch", "2023-12-31T21:16:02", {}),
            (
                "",
                "Schönes Feuerwerk",
                "2023-12-31T21:18:00",
                {"parts": [{"role": "user", "part": {"media": "Bild weggelassen"}}]},
            ),
        ],
        [0, 0],
        [],
    ),
    "telegram": (
        "telegram",
        {"me": "user2"},
        [
            (
                "Where do we meet?",
                "At the station.",
                "2023-03-01T09:02:00",
                {"parts": [{"role": "assistant", "part": {"forwarded_from": "News", "text": "Trains are late."}}]},
            ),
            ("", "I see you.", "2023-03-01T09:05:00", {"parts": [{"role": "user", "part": {"photo": "photos/1.jpg"}}]}),
        ],
        [0, 0],
        [],
    ),
    "telegram_all": (
        "telegram",
        {"me": "Kim"},
        [
            ("Lunch?", "At noon.", "2023-04-01T09:01:00", {}),
            ("Who brings the ball?", "I do.", "2023-04-03T09:05:00", {}),
        ],
        [0, 1],
        [],
    ),
    "discord.json": (
        "discord",
        {"me": "kim_y"},
        [
            ("Which version runs?", "3.2 since Monday", "2024-01-04T09:01:00", {}),
            (
                "",
                "Looks right",
                "2024-01-04T09:03:00",
                {
                    "parts": [
                        {
                            "role": "user",
                            "part": {
                                "id": "5",
                                "url": "https://cdn.example.org/a.png",
                                "fileName": "a.png",
                                "fileSizeBytes": 10,
                            },
                        }
                    ]
                },
            ),
        ],
        [0, 0],
        [],
    ),
    "discord.csv": ("discord", {"me": "kim_y"}, [("Which, exactly?", "This one", "2024-01-04T10:01:00", {})], [0], []),
    "discord.txt": (
        "discord-text",
        {"me": "kim_y"},
        [
            (
                "Which version runs?\n\nOn the server.",
                "3.2 since Monday",
                "2024-01-04T10:01:00",
                {"parts": [{"role": "assistant", "part": "https://cdn.example.org/a.png"}]},
            )
        ],
        [0],
        [],
    ),
    "slack": (
        "slack",
        {"me": "Kim K"},
        [
            ("Who has the key?", "I have it", "2024-01-04T08:01:50", {}),
            ("Coffee?", "Always", "2024-01-05T08:01:50", {}),
            ("@Kim K is the VPN & mail down? See status", "No, only slow\nIt is fast again", "2024-01-04T08:03:20", {}),
        ],
        [0, 1, 2],
        ["help/2024-01-04.json, record 6: expected a message"],
    ),
    "batch": (
        "batch",
        {},
        [
            ("How deep is the lake?", "Forty metres.", "", {"model": "small", "system": "Answer briefly."}),
            ("And the pond?", "Two.", "", {"model": "small"}),
        ],
        [0, 1],
        ["line 5: expected a question or an answer of a batch", "line 5: expected an id of its own, found 'r4' again"],
    ),
    "rasa": (
        "rasa",
        {},
        [
            ("How deep is the lake?", "Forty metres.\n\nAnd it is cold.", "", {}),
            ("lake depth", "It is forty metres deep.\n\nAnd it is cold.", "", {}),
            ("Which fish live there?", "Perch and pike.", "", {}),
        ],
        [0, 1, 2],
        [],
    ),
    "sms.xml": (
        "sms",
        {},
        [
            ("How deep is the lake? 😊", "Forty metres & cold.", "2024-01-15T10:01:00", {}),
            (
                "And the pond?",
                "Two.",
                "2024-01-15T10:03:00",
                {"parts": [{"role": "user", "part": {"ct": "image/jpeg", "name": "pond.jpg", "cl": "pond.jpg"}}]},
            ),
            ("Lunch\nat noon?", "Yes.", "2024-01-15T10:03:10", {}),
        ],
        [0, 0, 1],
        [],
    ),
    "posts.xml": (
        "replies",
        {},
        [
            ("How deep is the lake?\n\nIt looks *deep*.", "Forty metres.", "2012-03-05T20:20:02.213", {}),
            ("And the pond?\n\nSee above.", "Two.", "2012-03-05T20:22:02.213", {}),
        ],
        [0, 1],
        [],
    ),
    "mails.mbox": (
        "mail",
        {},
        [
            (
                "The lake – how deep?\n\nHow deep is the lake, Bärbel?",
                "Forty metres.\n\nFrom here on it is steep.",
                "2024-01-15T11:00:00",
                {},
            ),
            ("And the pond?", "Two.", "2024-01-15T13:00:00", {}),
        ],
        [0, 0],
        [],
    ),
    "instances.jsonl": (
        "instances",
        {},
        [
            ("Translate to French.\n\nGood morning", "Bonjour", "", {}),
            ("Translate to French.\n\nGood night", "Bonne nuit", "", {}),
            ("Name a lake.", "Lake Constance", "", {}),
            ("Say how deep it is.\n\nthe pond", "Two metres.", "", {}),
        ],
        [0, 1, 2, 3],
        ["line 4: expected an output as text, found an object"],
    ),
    "dialogue_lines.txt": (
        "dialogue-lines",
        {},
        [
            ("How deep is the lake?", "Forty metres.", "", {}),
            ("And the pond?", "Two.", "", {}),
            ("Which fish?", "Perch.", "", {}),
            ("Any pike there ?", "A few .", "", {}),
        ],
        [0, 0, 1, 2],
        [],
    ),
    "session.jsonl": (
        "vscode",
        {},
        [
            ("How deep is the lake?", "Forty metres.", "2023-11-14T22:13:20", {"thoughts": "It is deep."}),
            ("And the pond?", "Two metres.", "2023-11-14T22:14:20", {}),
        ],
        [0, 0],
        ["line 9: expected a change of a chat"],
    ),
    "watson.json": (
        "intents",
        {},
        [
            ("How deep is the lake?", "Forty metres.", "", {}),
            ("lake depth", "Forty.", "", {}),
            ("Which fish live there?", "Perch and pike.", "", {}),
        ],
        [0, 1, 2],
        [],
    ),
    "captions.srt": (
        "chat-log",
        {"me": "Kim"},
        [("How deep\nis the lake?", "Forty metres.", "", {})],
        [0],
        [],
    ),
    "transcript.txt": (
        "chat-log",
        {"me": "Kim"},
        [
            ("How deep is the lake?", "Forty metres.\nAt 10:30 we measured it.", "", {}),
            ("Thanks.", "You are welcome.", "", {}),
        ],
        [0, 0],
        [],
    ),
    "flashcards.txt": (
        "columns",
        {},
        [("How deep is the lake?", "Forty metres.", "", {}), ("pond", 'Two "wet" metres.', "", {})],
        [0, 1],
        [],
    ),
    "pandas.json": (
        "nested",
        {},
        [("How deep is the lake?", "Forty metres.", "", {}), ("And the pond?", "Two.", "", {})],
        [0, 1],
        [],
    ),
}
EXPECTED["slack.zip"] = EXPECTED["slack"]


@pytest.mark.parametrize("name", EXPECTED)
def test_a_sample_gives_exactly_the_expected_turns(log, sample, name):
    format, asked, turns, sessions, set_aside = EXPECTED[name]
    report = import_files(log, [sample(name)], Wanted(**asked, licence="CC0"))
    found = log.turns()
    told = [{key: fact for key, fact in turn.metadata.items() if key not in ("source", "import")} for turn in found]
    assert [(turn.user_message, turn.bot_response) for turn in found] == [
        (question, answer) for question, answer, *_ in turns
    ]
    assert [turn.timestamp for turn in found] == [at(time) for _, _, time, _ in turns]
    assert told == [facts for *_, facts in turns]
    order = list(dict.fromkeys(turn.session_id for turn in found))
    assert [order.index(turn.session_id) for turn in found] == sessions
    assert all(turn.metadata["source"] == {"name": name, "licence": "CC0", "format": format} for turn in found)
    assert {turn.metadata["import"] for turn in found} == {report.id}
    assert report.set_aside == len(set_aside) == len(report.faults)
    for fault, expected in zip(report.faults, set_aside, strict=True):
        assert expected in f"{fault.place}: {fault.reason}"


def test_every_format_has_a_sample():
    documents = {name for name, importer in IMPORTERS.items() if importer.whole}  # tests/data_collection/documents
    assert {format for format, *_ in EXPECTED.values()} == set(IMPORTERS) - documents


@pytest.mark.parametrize("name", EXPECTED)
def test_importing_twice_adds_nothing(log, sample, name):
    asked = Wanted(**EXPECTED[name][1])
    import_files(log, [sample(name)], asked)
    before = log.path.read_bytes()
    again = import_files(log, [sample(name)], asked)
    assert again.added == 0 and again.known == again.turns > 0
    assert log.path.read_bytes() == before


@pytest.mark.parametrize("name", [name for name, (_, asked, *_) in EXPECTED.items() if asked])
def test_without_me_a_chat_among_people_names_who_wrote(log, sample, name):
    with pytest.raises(DataError, match=r"--me NAME.*Names and messages: .*(Robin|robin)\S* \(\d"):
        import_files(log, [sample(name)])
    with pytest.raises(DataError, match=r"has no messages by 'Nobody'|no text of 'Nobody' follows"):
        import_files(log, [sample(name)], Wanted(me="Nobody"))
    assert not log.path.exists()


@pytest.mark.parametrize(
    ("name", "turns"),
    [
        ("chatgpt", 4),
        ("oasst_trees.jsonl", 3),
        ("open_webui.json", 3),
        ("oasst_messages.jsonl", 3),
        ("MyActivity.json", 3),
        ("claude", 2),
        ("replies.csv", 3),
    ],
)
def test_all_branches_of_a_tree_can_be_wanted(log, sample, name, turns):
    import_files(log, [sample(name)], Wanted(branches="all"))
    assert len({(turn.user_message, turn.bot_response) for turn in log.turns()}) == turns


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-32", "cp1252"])
def test_an_encoding_is_found(log, tmp_path, encoding):
    file = tmp_path / "questions.csv"
    file.write_text("question,answer\nWie heißt der Fluß?,Er heißt Weiße Elster – naß.\n", encoding=encoding)
    import_files(log, [file])
    assert [(turn.user_message, turn.bot_response) for turn in log.turns()] == [
        ("Wie heißt der Fluß?", "Er heißt Weiße Elster – naß.")
    ]


@pytest.mark.parametrize(
    "texts",
    [
        # one object, on one line
        ['{"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}'],
        [
            json.dumps(
                [{"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}], indent=2
            )
        ],
        [
            json.dumps(
                {
                    "conversations": [
                        {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}
                    ]
                },
                indent=1,
            )
        ],
        [json.dumps({"version": 1, "data": [{"question": "q", "answer": "a"}]})],
        ['{"prompt": "q", "completion": "a"}', "", '{"prompt": "q", "completion": "a"}'],
        ["prompt|completion", "q|a"],
    ],
)
def test_the_layout_is_found(log, tmp_path, texts):
    for file in (tmp_path / "file", tmp_path / "file.gz"):
        data = "\n".join(texts).encode()
        file.write_bytes(gzip.compress(data) if file.suffix else data)
        import_files(log, [file])
        assert [(turn.user_message, turn.bot_response) for turn in log.turns()] == [("q", "a")]


def test_all_lists_of_an_object_that_have_the_format_are_read(log, tmp_path):
    """Also those that begin after the elements by which the format is recognised."""
    pairs = [{"question": f"Question {number}?", "answer": f"Answer {number}."} for number in range(600)]
    file = tmp_path / "faq.json"
    file.write_text(
        json.dumps({"orders": pairs[:300], "staff": [{"name": "Kim"}], "returns": pairs[300:599], "rest": pairs[599:]})
    )
    report = import_files(log, [file])
    assert (report.added, report.set_aside) == (600, 0)


def _made_people(kind):
    head = {"Sender Name": "Robin", "Text": "q", "Message Date": "2024-01-15 10:00:00", "Type": "Incoming"}
    mine = {"Sender Name": "", "Text": "a", "Message Date": "2024-01-15 10:01:00", "Type": "Outgoing"}
    linked = [
        {"CONVERSATION ID": "1", "FROM": name, "TO": "x", "DATE": f"2024-01-15 10:0{minute}:00 UTC", "CONTENT": text}
        for minute, name, text in ((1, "Me", "a"), (0, "Robin", "q"))  # the newest first
    ]
    return {"imazing": [head, mine], "linkedin": linked}[kind]


@pytest.mark.parametrize("kind", ["imazing", "linkedin"])
def test_tables_of_messages_of_people(log, tmp_path, kind):
    rows = _made_people(kind)
    file = tmp_path / "messages.csv"
    file.write_text("\n".join(",".join(row) for row in ([*rows[0]], *(row.values() for row in rows))) + "\n")
    with pytest.raises(DataError, match=r"--me NAME.*Me \(1\)"):
        import_files(log, [file])
    import_files(log, [file], Wanted(me="Me"))
    assert [(turn.user_message, turn.bot_response) for turn in log.turns()] == [("q", "a")]


@pytest.mark.parametrize(
    ("record", "question", "answer"),
    [
        ({"questions": ["q"], "answer": "a"}, "q", "a"),
        ({"q": "q", "a": ["It is one.", "It is two."]}, "q", "It is one.\n\nIt is two."),
        ({"question": "q", "answers": ["a", "b"]}, "q", "a"),
        ({"question": "q", "answers": [{"text": "b", "pm_score": 1}, {"text": "a", "pm_score": 3}]}, "q", "a"),
        ({"question": "q", "answers": [{"text": "b", "selected": False}, {"text": "a", "selected": True}]}, "q", "a"),
        (
            {
                "prompt": "\n\nHuman: q\n\nAssistant: ",
                "answers": [{"answer": "b", "rank": 2}, {"answer": "a", "rank": 1}],
            },
            "q",
            "a",
        ),
        ({"title": "q", "selftext": "more", "answers": {"text": ["a", "b"], "score": [2, 1]}}, "q\n\nmore", "a"),
        (
            {"@type": "Question", "name": "q", "acceptedAnswer": {"@type": "Answer", "text": "<p>a <b>b</b></p>"}},
            "q",
            "a **b**",
        ),
        (
            {
                "instruction": "q",
                "completions": [{"response": "b", "overall_score": 1}, {"response": "a", "overall_score": 9}],
            },
            "q",
            "a",
        ),
        ({"Ticket ID": 1, "Ticket Description": "q", "Resolution": "a"}, "q", "a"),
        ({"user": "q", "shop_bot": "a"}, "q", "a"),
        ({"intent": "tea", "text": ["q"], "responses": ["a"]}, "q", "a"),
        ({"passage": "p", "question": "q", "answer": True}, "q\n\np", "Yes"),
        ({"dialogue": [["A", "q"], ["B", "a"]]}, "q", "a"),
        ({"history": [["Why?", "a"]]}, "Why?", "a"),
        ({"log": [{"id": 7, "text": "q"}, {"id": 8, "text": "a"}, {"id": 9, "text": "q2"}]}, "q", "a"),
        ({"How much?": "a", "Why?": "a", "Who?": "a"}, "How much?", "a"),
    ],
)
def test_questions_and_answers_of_many_programs(log, tmp_path, record, question, answer):
    file = tmp_path / "faq.json"
    file.write_text(json.dumps([record]))
    import_files(log, [file])
    assert (log.turns()[0].user_message, log.turns()[0].bot_response) == (question, answer)


@pytest.mark.parametrize(
    "record",
    [
        {"history": "q", "human_ref_A": "a", "human_ref_B": "b", "labels": 1},
        {"history": "q", "human_ref_A": "b", "human_ref_B": "a", "labels": 0},
        {
            "conversation_a": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "b"}],
            "conversation_b": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}],
            "winner": "model_b",
        },
    ],
)
def test_the_better_one_of_two_answers_is_learned(log, tmp_path, record):
    file = tmp_path / "pairs.jsonl"
    file.write_text(json.dumps(record) + "\n" + json.dumps({**record, "labels": 2, "winner": "tie"}) + "\n")
    report = import_files(log, [file])
    (turn,) = log.turns()
    assert (turn.user_message, turn.bot_response, turn.metadata["original_response"]) == ("q", "a", "b")
    assert "it is a tie" in report.faults[0].reason


def test_a_spoilt_element_of_an_array_costs_only_itself(log, tmp_path):
    records = [json.dumps({"instruction": f"Question {n}?", "output": f"Answer {n}."}) for n in range(6)]
    records[2] = '{"instruction": "Question 2?", "output": unquoted, "more": {"instruction": "inner"}}'
    records[4] = '{"instruction": "Question 4?" "output": {"a": 1}, {"b": 2}}'
    file = tmp_path / "alpaca.json"
    file.write_text("[\n" + ",\n".join(records) + "\n]")
    report = import_files(log, [file])
    assert [turn.user_message for turn in log.turns()] == [f"Question {n}?" for n in (0, 1, 3, 5)]
    assert [fault.place for fault in report.faults] == [
        "alpaca.json, line 4, column 42",
        "alpaca.json, line 6, column 31",
    ]


def test_an_array_that_ends_in_the_middle_gives_what_is_whole(log, tmp_path):
    file = tmp_path / "alpaca.json"
    whole = json.dumps([{"instruction": f"Question {n}?", "output": f"Answer {n}." * 1000} for n in range(100)])
    half = whole[: len(whole) // 2]
    file.write_text(half)
    report = import_files(log, [file])
    assert report.added == half.count('."}') >= 49
    assert [fault.reason for fault in report.faults] == ["expected JSON: Unterminated string starting at"]


@pytest.mark.parametrize(
    ("order", "expected"),
    [
        # nothing tells: days first, as most of the world writes
        (["03/04/23, 10:00 - Robin: q", "05/04/23, 10:00 - Kim: a"], None),
        (["03/04/23, 10:00 - Robin: q", "03/25/23, 10:00 - Kim: a"], "2023-03-04"),
        (["28/02/2023, 10:00 - Robin: q", "01/03/2023, 10:00 - Kim: a"], "2023-02-28"),
        (["01/31/23, 10:00 - Robin: q", "02/01/23, 10:00 - Kim: a"], "2023-01-31"),
        (["02/03/23, 10:00 - Robin: q", "01/04/23, 10:00 - Kim: a"], "2023-03-02"),  # only so in order
        (["2023-02-03, 10:00 - Robin: q", "2023-02-03, 11:00 - Kim: a"], "2023-02-03"),
        (["3.2.2023 klo 10.00 - Robin: q", "3.2.2023 klo 11.00 - Kim: a"], "2023-02-03"),
    ],
)
def test_whatsapps_days_and_months_are_told_apart(log, tmp_path, order, expected):
    file = tmp_path / "chat.txt"
    file.write_text(
        "\n".join([*order, order[1].replace("Kim: a", "Robin: again"), order[1].replace("Kim: a", "Kim: yes")])
    )
    import_files(log, [file], Wanted(me="Kim"))
    times = [turn.timestamp for turn in log.turns()]
    assert times == sorted(times)
    from fine_tuning.data_collection.importers.whatsapp import WHATSAPP, _day_first, _head, _time

    assert WHATSAPP.fits(order)
    assert expected is None or _time(_head(order[0]), _day_first(order)).startswith(expected)


@pytest.mark.parametrize(
    "text",
    [
        "",
        " \n",
        "Just a letter.\nWith two lines.\n",
        "key: value\nother: thing\n",
        "host: here\nport: 80\nuser: root\nmodel: large\n",
        "{}",
        "[]",
        "[1, 2, 3]",
        "null",
        '{"a": {"b": 1}}',
        '{"*": ["all"], "{": 1}',
        "a,b\n1,2\n",
        "\x89PNG\r\n\x1a\n\0\0\0\rIHDR",
        "<html></html>",
        '[{"title": "Tea", "content": ["It is a drink.", "It is hot."]}]',
        '[{"id": 1, "choices": [{"turns": ["It is a drink.", "It is hot."]}]}]',
    ],
)
def test_what_is_no_known_format_is_refused_and_says_what_it_contains(log, tmp_path, text):
    file = tmp_path / "file.txt"
    file.write_text(text)
    with pytest.raises(DataError, match=r"in no format that byoai knows: it contains .*--format"):
        import_files(log, [file])
    assert not log.path.exists()


@pytest.mark.parametrize(("name", "text"), [("history", "why is the sky blue\n"), ("typed.txt", "hello\n/bye\n")])
def test_the_history_of_ollama_is_refused_because_it_has_no_answers(log, tmp_path, name, text):
    file = tmp_path / name
    file.write_text(text)
    with pytest.raises(DataError, match="is the history of `ollama run`: it holds what was typed, and no answers"):
        import_files(log, [file])


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("plain &amp; simple", "plain & simple"),
        ("<p>One\n line.</p> <p>Two <em>lines</em>.<br>Three.</p>", "One line.\n\nTwo *lines*.\nThree."),
        ("<ol><li>a</li><li>b<ul><li>c</li></ul></li></ol>", "1. a\n2. b\n  - c"),
        ("<h2>Head</h2><p>Use <code>a &lt; b</code>.</p>", "## Head\n\nUse `a < b`."),
        ("<pre><code>if x:\n    y\n\n</code></pre>after", "```\nif x:\n    y\n```\n\nafter"),
        ("<script>alert(1)</script>seen<style>x</style>", "seen"),
        ("<table><tr><th>A</th><td>B</td></tr></table>", "| A | B"),
        ("</ul></pre></script><li>odd", "- odd"),
    ],
)
def test_html_becomes_text_with_the_marks_of_markdown(source, text):
    assert text_of_html(source) == text


@pytest.mark.parametrize(
    ("name", "text", "advice"),
    [
        (
            "posts.xml",
            '<?xml version="1.0"?><posts><row Body="q"/></posts>',
            "contains XML elements of Body.* Convert it to JSON or CSV",
        ),
        ("page.html", "<!DOCTYPE html>\n<html><p>Tea.</p></html>", "or use --as document to make questions"),
        ("film.srt", "1\n00:00:01,000 --> 00:00:02,000\nWhat is tea?\n", "Subtitles do not say who speaks"),
        ("pairs.csv", "tea,a drink\nbread,a food\n", "Give the first row the names of the columns"),
        ("bad.yml", "a: [1\n", "bad.yml contains YAML that byoai does not accept, line 2"),
        ("large.yaml", "- question\n" * 100_000, "has more than 1 MB of YAML: convert it to JSON"),
    ],
)
def test_what_cannot_be_a_chat_says_what_to_do(log, tmp_path, name, text, advice):
    file = tmp_path / name
    file.write_text(text)
    with pytest.raises(DataError, match=advice):
        import_files(log, [file])


def test_a_format_can_be_named(log, tmp_path):
    file = tmp_path / "file.jsonl"
    file.write_text('{"instruction": "i", "output": "o", "question": "q", "answer": "a"}\n')
    import_files(log, [file], Wanted(format="columns"))
    assert [turn.user_message for turn in log.turns()] == ["q"]
    with pytest.raises(ConfigError, match=r"is not known: use chatgpt, .*docs/importing\.md lists all"):
        import_files(log, [file], Wanted(format="chatGTP"))
    with pytest.raises(DataError, match="cannot be in the format WhatsApp"):
        import_files(log, [file], Wanted(format="whatsapp"))


@pytest.mark.parametrize(
    ("text", "turns"),
    [
        ("### Instruction:\nAdd 2 and 3.\n\n### Response:\n5\n", [("Add 2 and 3.", "5")]),
        ("**You said:**\nHi\n\n**ChatGPT said:**\nHello!\n", [("Hi", "Hello!")]),
        ("Q: One?\nA: Yes.\n\nQ: Two?\nA: No:\nnever.\n", [("One?", "Yes."), ("Two?", "No:\nnever.")]),
        ("Nutzer: Wann?\r\nKI: Morgen.\r\n", [("Wann?", "Morgen.")]),
        ("human: hi\nai: hello\nhuman: bye", [("hi", "hello")]),
    ],
)
def test_dialogues_as_people_write_them(log, tmp_path, text, turns):
    file = tmp_path / "dialogue.md"
    file.write_text(text, newline="")
    import_files(log, [file])
    assert [(turn.user_message, turn.bot_response) for turn in log.turns()] == turns


def test_pairs_become_preferences(log, sample):
    """What was chosen is preferred to what was rejected, as an edit is."""
    import_files(log, [sample("preference.jsonl")])
    turns = log.turns()
    fit = {
        turn.id: clean
        for turn in turns
        if isinstance(clean := clean_turn(turn, CleanSettings(min_length=1)), CleanTurn)
    }
    assert [(each.said[-1].content, each.chosen, each.rejected) for each in preferences_of(turns, fit)] == [
        (turn.user_message, turn.bot_response, turn.metadata["original_response"])
        for turn in turns
        if "original_response" in turn.metadata
    ]


def test_a_format_of_ones_own(log, tmp_path, monkeypatch):
    (tmp_path / "own_format.py").write_text(
        "def read(path):\n"
        "    for line in path.read_text().splitlines():\n"
        "        yield tuple(line.split('=>'))\n"
        "    yield [{'role': 'user', 'content': 'q'}, {'role': 'assistant', 'content': 'a'}]\n"
        "def fails(path):\n    yield ('q', 'a')\n    raise ZeroDivisionError('no')\n"
    )
    file = tmp_path / "chats.own"
    file.write_text("one=>two\nthree\n")
    monkeypatch.chdir(tmp_path)
    report = import_files(log, [file], Wanted(format="own_format:read"))
    assert [(turn.user_message, turn.bot_response) for turn in log.turns()] == [("one", "two"), ("q", "a")]
    assert [fault.place for fault in report.faults] == ["chats.own, conversation 2"]
    assert import_files(log, [file], Wanted(format=f"{tmp_path}/own_format.py:read")).added == 0
    assert "ZeroDivisionError: no" in import_files(log, [file], Wanted(format="own_format:fails")).faults[0].reason
    for wrong in ("own_format:none", "no_such:read", "missing.py:read", ":"):
        with pytest.raises(ConfigError, match="--format"):
            import_files(log, [file], Wanted(format=wrong))


def test_a_local_copy_of_a_hugging_face_dataset(log, tmp_path):
    import datasets

    conversations = [
        [{"from": "human", "value": f"Question {n}?"}, {"from": "gpt", "value": f"Answer {n}."}] for n in range(3)
    ]
    datasets.Dataset.from_dict({"conversations": conversations, "score": [1, 2, 3]}).save_to_disk(
        str(tmp_path / "copy")
    )
    assert import_files(log, [tmp_path / "copy"]).added == 3
    assert log.turns()[0].metadata["source"] == {"name": "copy", "format": "sharegpt"}


def test_the_hub_out_of_reach_is_a_clear_error(home):
    command = [sys.executable, "-m", "fine_tuning", "import", "hf:made-up/none", "--yes"]
    done = subprocess.run(command, env={**os.environ, "HF_HUB_OFFLINE": "1"}, capture_output=True, text=True)
    assert done.returncode == DataError.exit_code
    assert (
        "cannot read the dataset hf:made-up/none from the Hugging Face Hub" in done.stderr
        and "Traceback" not in done.stderr
    )


@pytest.mark.parametrize(
    ("head", "time"),
    [
        ("[3/18/2565 BE, 14:56:01] ", "2022-03-18T14:56:01"),
        ("[3/18/R4, 14:56:01] ", "2022-03-18T14:56:01"),
        ("[\u200f18\u200f/3\u200f/2022\u060c 14:56:01] ", "2022-03-18T14:56:01"),
        ("\u200f[١٨\u200f/٣\u200f/٢٠٢٢\u060c ٢:٥٦:٠١\xa0م] ", "2022-03-18T14:56:01"),  # "م": afternoon
        ("[14:56:01, 3/18/22] ", "2022-03-18T14:56:01"),
        ("2022/3/18 下午2:56 - ", "2022-03-18T14:56:00"),
        ("2022. 3. 18. 오후 2:56 - ", "2022-03-18T14:56:00"),
        ("18/03/2022, 2:56 p. m. - ", "2022-03-18T14:56:00"),
        ("18.03.22 14:56:01: ", "2022-03-18T14:56:01"),  # iOS until 2018
        ("18.3.2022 klo 14.56 - ", "2022-03-18T14:56:00"),
        ("18-03-2022 14:56 - ", "2022-03-18T14:56:00"),
        ("18/3/2565 14:56 - ", "2022-03-18T14:56:00"),
    ],
)
def test_whatsapps_dates_in_many_languages(log, tmp_path, head, time):
    file = tmp_path / "chat.txt"
    file.write_text(f"{head}Robin: Tea - or what?\n{head}Kim: Yes: tea\nplease\n{head}Robin: Fine\n")
    import_files(log, [file], Wanted(me="Kim"))
    assert [(turn.user_message, turn.bot_response) for turn in log.turns()] == [("Tea - or what?", "Yes: tea\nplease")]
    assert log.turns()[0].timestamp == at(time)


@pytest.mark.parametrize(
    "gone", ["Данное сообщение удалено", "Tato zpráva byla odstraněna.", "Je hebt dit bericht verwijderd"]
)
def test_messages_that_were_deleted_are_no_text_in_many_languages(log, tmp_path, gone):
    file = tmp_path / "chat.txt"
    lines = ["Robin: q", f"Kim: {gone}", "Kim: a"]
    file.write_text("".join(f"18.03.22, 14:56 - {line}\n" for line in lines))
    import_files(log, [file], Wanted(me="Kim"))
    assert [turn.bot_response for turn in log.turns()] == ["a"]


@pytest.mark.parametrize(
    "text",
    [
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nq: 1<|im_end|>\n"
        "<|im_start|>assistant\na<|im_end|>\n",
        "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|><|start_header_id|>user"
        "<|end_header_id|>\n\nq: 1<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\na<|eot_id|>",
        "<s>[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\nq: 1 [/INST] a </s>",
        "Be brief.<bos><start_of_turn>user\nq: 1<end_of_turn>\n<start_of_turn>model\na<end_of_turn>",
        "<|system|>\nBe brief.</s>\n<|user|>\nq: 1</s>\n<|assistant|>\na</s>",
        "Be brief.\n[|Human|] q: 1\n[|AI|] a",
        "Be brief.\n<human>: q: 1\n<bot>: a",
        "Be brief.\n\n### Instruction:\nq: 1\n\n### Response:\na",
        "Be brief.\n\nHuman: q: 1\n\nAssistant: a",
        "Be brief.\nQ: q: 1\nA: a",
    ],
)
def test_marks_of_chat_templates(log, tmp_path, text):
    file = tmp_path / "set.jsonl"
    file.write_text(json.dumps({"text": text}) + "\n")
    import_files(log, [file])
    (turn,) = log.turns()
    assert (turn.user_message, turn.bot_response, turn.metadata["system"]) == ("q: 1", "a", "Be brief.")


@pytest.mark.parametrize(
    "text",
    [
        "---\ntitle: Tea\n---\n\n# Tea\n\n## User\n\nq: 1\n\n---\n\n## Assistant\n\na\n\n---\n\n"
        "## User\n\nq2\n\n---\n\n## Assistant\n\nb\n",
        "## 👤 User · 2026-03-01\n\nq: 1\n\n## 🤖 Assistant · 2026-03-01\n\na\n\n"
        "## 👤 User\n\nq2\n## 🤖 Assistant\nb\n",
        "**User**\n\nq: 1\n\n**ChatGPT**\n\na\n\n**User**\n\nq2\n\n**ChatGPT**\n\nb",
        "_**User**_\n\nq: 1\n\n---\n\n_**Assistant**_\n\na\n\n_**User**_\n\nq2\n\n_**Assistant**_\n\nb\n",
        '#### You:\nq: 1\n\n#### ChatGPT:\na\n<hr class="x">\n\n#### You:\nq2\n\n#### ChatGPT:\nb\n<hr class="x">\n',
        "# Tea\n\n## Prompt:\nq: 1\n\n## Response:\na\n\n## Prompt:\nq2\n\n## Response:\nb\n",
        "**User:** q: 1\n\n---\n\n**Assistant:** a\n\n---\n\n**User:** q2\n\n---\n\n**Assistant:** b\n",
    ],
)
def test_dialogues_under_headings(log, tmp_path, text):
    file = tmp_path / "chat.md"
    file.write_text(text)
    import_files(log, [file])
    assert [(turn.user_message, turn.bot_response) for turn in log.turns()] == [("q: 1", "a"), ("q2", "b")]
    assert len({turn.session_id for turn in log.turns()}) == 1


def test_a_manual_with_a_heading_user_is_no_dialogue(log, tmp_path):
    topics = "".join(f"## Topic {number}\n\nMuch is to be said.\n\n" for number in range(10))
    file = tmp_path / "manual.md"
    file.write_text(f"# Manual\n\n{topics}## User\n\nSomebody.\n\n## Support\n\nNobody.\n")
    with pytest.raises(DataError, match="in no format"):
        import_files(log, [file])


def test_the_time_in_a_heading_is_the_messages(log, tmp_path):
    file = tmp_path / "chat.md"
    file.write_text(
        "## User (`id`) - 2026-03-01T10:00:00+00:00\n\nq\n\n## Assistant (`id`) - 2026-03-01T10:00:05Z\n\na\n"
    )
    import_files(log, [file])
    assert log.turns()[0].timestamp == at("2026-03-01T10:00:05")


@pytest.mark.parametrize(
    ("written", "time"),
    [
        ("Apr 12, 2026, 3:34:31 PM EDT", "2026-04-12T19:34:31"),
        ("18 Sept 2025, 12:02:52 CET", "2025-09-18T11:02:52"),
        ("12.04.2026, 15:34:31 MESZ", "2026-04-12T13:34:31"),
        ("2026年6月20日 00:28:51 JST", "2026-06-19T15:28:51"),
        ("12 mai 2026, 03:46:09 CEST", "2026-05-12T01:46:09"),
        ("12 ma.y 2026, 03:46:09 XYZ", ""),
    ],
)
def test_the_times_of_takeout(written, time):
    from fine_tuning.data_collection.importers.gemini_html import _time

    assert _time(written) == at(time)


@pytest.mark.parametrize(
    ("lines", "times"),
    [
        (["[10:00] <Robin> q", "[10:01] <@Kim> a", "[10:02] * Robin smiles"], ""),
        (["2024-01-15 10:00:00\tRobin\tq", "2024-01-15 10:01:00\t@Kim\ta", "2024-01-15 10:02:00\t-->\tx"], "10:01"),
        (["--------- 2024년 1월 15일 월요일 ---------", "[Robin] [오전 9:00] q", "[Kim] [오후 1:01] a"], "13:01"),
        (["2024년 1월 15일 오전 9:00, Robin : q", "2024년 1월 15일 오후 1:01, Kim : a"], "13:01"),
        (["[ 15-01-2024 ] 10:00 Robin: q", "[ 15-01-2024 ] 10:01 Kim: a"], "10:01"),
        (["10:00:12\t From  Robin : q", "10:01:12\t From  Kim : a"], ""),
        (["10:00:12 From Robin to Everyone:", "\tq", "10:01:12 From Kim to Everyone:", "\ta"], ""),
        (["2024-01-15 10:00:00 Robin(12345)", "q", "", "2024-01-15 10:01:00 Kim(12346)", "a"], "10:01"),
        (["Jan 15, 2024 10:00:00 AM", "Robin", "q", "", "Jan 15, 2024 10:01:00 AM (Read)", "Kim", "a"], "10:01"),
        (["WEBVTT", "", "1", "00:01.000 --> 00:02.000", "<v Robin>q</v>", "0:03.000 --> 0:04.000", "<v Kim>a"], ""),
        (["WEBVTT", "", "00:01.000 --> 00:02.000", "Robin: q", "", "00:03.000 --> 00:04.000", "Kim: a"], ""),
        (["** Log of Mon Jan 15 09:00:00 2024", "Jan 15 10:00:00 <Robin>\tq", "Jan 15 10:01:00 <Kim>\ta"], "10:01"),
        (["15.01.2024", "10:00\tRobin\tq", "10:01\tKim\ta"], "10:01"),
    ],
)  # fmt: skip
def test_logs_of_many_programs(log, tmp_path, lines, times):
    file = tmp_path / "log.txt"
    file.write_text("\n".join(lines) + "\n")
    import_files(log, [file], Wanted(me="Kim"))
    (turn,) = log.turns()
    assert (turn.user_message, turn.bot_response) == ("q", "a")
    assert turn.timestamp == (at(f"2024-01-15T{times}") if times else "")


def test_a_text_of_meta_that_is_cut_within_a_character_is_repaired_as_far_as_it_goes(log, tmp_path):
    said = [("Robin", "Schön 😂".encode().decode("latin-1") + "ð\x9f\x98"), ("Kim", "Ja")]
    messages = [
        {"sender_name": name, "timestamp_ms": 1700000000000 + n, "content": text} for n, (name, text) in enumerate(said)
    ]
    file = tmp_path / "message_1.json"
    file.write_text(json.dumps({"messages": messages[::-1]}))
    import_files(log, [file], Wanted(me="Kim"))
    assert log.turns()[0].user_message == "Schön 😂ð\x9f\x98"


def test_the_lists_of_one_record_are_chats_of_their_own(log, tmp_path):
    chats = [
        [("Robin", "q", "10:00"), ("Kim", "a", "10:01")],
        [("Lee", "x", "10:00"), ("Kim", "y", "10:02")],
    ]
    record = [
        {"MessageList": [{"from": name, "content": text, "date": f"2024-01-15T{at}"} for name, text, at in chat]}
        for chat in chats
    ]
    file = tmp_path / "messages.json"
    file.write_text(json.dumps({"userId": "kim", "conversations": record}))
    import_files(log, [file], Wanted(me="kim"))
    assert {(turn.user_message, turn.bot_response) for turn in log.turns()} == {("q", "a"), ("x", "y")}
    assert len({turn.session_id for turn in log.turns()}) == 2


@pytest.mark.parametrize("form", ["[2024-01-15 10:00:0{}] {}: {}", "10:00:0{} <{}> {}"])
def test_a_log_of_a_user_and_a_machine_needs_no_name(log, tmp_path, form):
    said = [("User", "q"), ("Assistant", "a"), ("User", "q2"), ("Assistant", "a2")]
    file = tmp_path / "chat_log.txt"
    file.write_text("".join(f"{form.format(n, name, text)}\n" for n, (name, text) in enumerate(said)))
    import_files(log, [file])
    assert [(turn.user_message, turn.bot_response) for turn in log.turns()] == [("q", "a"), ("q2", "a2")]


@pytest.mark.parametrize(
    ("actions", "settings"),
    [
        (["\nq\nBot: a", "\nKim: q2\nBot:", " a2"], {"chatname": "Kim", "chatopponent": "Bot||$||Cat"}),
        (["{{[INPUT]}}q{{[INPUT_END]}}{{[OUTPUT]}}a{{[OUTPUT_END]}}", "{{[INPUT]}}q2{{[OUTPUT]}}", "a2"], {}),
        (["\n> q\n\na", "\n\n> q2\n", "a2"], {"chatname": "You", "chatopponent": ""}),
        (
            [
                "<|im_start|>user\nq<|im_end|>\n",
                "<|im_start|>assistant\na",
                "<|im_start|>user\nq2\n<|im_start|>model\na2",
            ],
            {},
        ),
    ],
)
def test_the_modes_of_kobold(log, tmp_path, actions, settings):
    prompt = "Kim:" if actions[0] == "\nq\nBot: a" else ""
    file = tmp_path / "story.json"
    story = {"gamestarted": True, "prompt": prompt, "actions": actions, "savedsettings": settings}
    file.write_text(json.dumps(story))
    import_files(log, [file])
    assert [(turn.user_message, turn.bot_response) for turn in log.turns()] == [("q", "a"), ("q2", "a2")]


def test_a_story_without_turns_is_set_aside(log, tmp_path):
    file = tmp_path / "story.json"
    file.write_text(json.dumps({"gamestarted": True, "prompt": "It was dark.", "actions": [" The wind blew."]}))
    (fault,) = import_files(log, [file]).faults
    assert "found a story without them" in fault.reason


def test_me_says_whose_replies_are_the_answers(log, sample):
    import_files(log, [sample("utterances.jsonl")], Wanted(me="Ann"))
    assert [(turn.user_message, turn.bot_response) for turn in log.turns()] == [("Every day.", "In the lake?")]
    assert log.turns()[0].metadata["opening"] == "Do you swim?"


@pytest.mark.parametrize(
    "sides",
    [
        [{"direction": "INCOMING"}, {"direction": "OUTGOING"}],
        [{"is_inbound": True}, {"is_inbound": False}],
        [{"from_agent": False}, {"from_agent": True}],
        [{"message_type": 0}, {"message_type": 1}],
        [{"author": {"type": "contact"}}, {"author": {"type": "user"}}],
        [{"type": "customer"}, {"type": "message", "createdBy": {"type": "user"}}],
        [{"author_id": "r"}, {"author_id": "k@x"}],
    ],
)
def test_the_sides_of_a_help_desk(log, tmp_path, sides):
    texts = [{"body": "q<br>2", "created_at": 1700000000}, {"body": "a", "created_at": 1700000060}]
    messages = [{**side, **text} for side, text in zip(sides, texts, strict=True)]
    users = [{"id": "r", "type": "customer"}, {"id": "k@x", "type": "agent"}]
    file = tmp_path / "tickets.json"
    file.write_text(json.dumps({"chats": [{"id": 1, "thread": {"events": messages[::-1]}, "users": users}]}))
    import_files(log, [file])
    assert [(turn.user_message, turn.bot_response) for turn in log.turns()] == [("q\n2", "a")]


@pytest.mark.parametrize("key", ["system", "systemInstruction", "context"])
@pytest.mark.parametrize(
    "system", ["Be brief.", [{"type": "text", "text": "Be brief."}], {"parts": [{"text": "Be brief."}]}]
)
def test_the_system_prompt_of_fine_tuning_forms(log, tmp_path, key, system):
    file = tmp_path / "set.jsonl"
    said = [{"role": "user", "parts": [{"text": "q"}]}, {"role": "model", "parts": [{"text": "a"}]}]
    file.write_text(json.dumps({key: system, "contents": said}) + "\n")
    import_files(log, [file])
    assert [(turn.user_message, turn.bot_response) for turn in log.turns()] == [("q", "a")]
    assert log.turns()[0].metadata["system"] == "Be brief."


@pytest.mark.parametrize(
    "record",
    [
        {"prompt": "\n\nHuman: q\n\nAssistant: a\n\nHuman: q2\n\nAssistant:", "completion": "a2"},
        {"turns": [{"prompt": "q", "response": "a"}, {"prompt": "q2", "response": "a2"}]},
        {"dialogue": [{"human": "q", "ai": "a"}, {"human": "q2", "ai": "a2"}]},
        {"segments": [{"label": False, "text": "User: q\nBot: a\nUser: q2\n"}, {"label": True, "text": "Bot: a2</s>"}]},
    ],
)
def test_exchanges_of_one_conversation(log, tmp_path, record):
    file = tmp_path / "set.jsonl"
    file.write_text(json.dumps(record) + "\n")
    import_files(log, [file])
    assert [(turn.user_message, turn.bot_response.strip()) for turn in log.turns()] == [("q", "a"), ("q2", "a2")]
    assert len({turn.session_id for turn in log.turns()}) == 1


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("viber.csv", "Date,Time,Sender,Message\n15/01/2024,10:00:00,Robin,q\n15/01/2024,10:01:00,Me,a\n"),
        ("viber.csv", "Date,Time,Sender,Message\n1/15/2024,10:00:00 AM,Robin,q\n1/15/2024,10:01:00 AM,Me,a\n"),
        (
            "chat_history.json",
            '{"Received": [{"From": "robin", "Created": "2024-01-15 10:00:00 UTC", "Text": "q"}],'
            ' "Sent": [{"To": "robin", "Created": "2024-01-15 10:01:00 UTC", "Text": "a"}]}',
        ),
        (
            "user_data.json",
            '{"Direct Messages": {"Chat History": {"with robin": [{"Date": "2024-01-15 10:00:00", "From": "robin",'
            ' "Content": "q"}, {"Date": "2024-01-15 10:01:00", "From": "me", "Content": "a"}], "with lee": ['
            '{"Date": "2024-01-15 10:00:00", "From": "lee", "Content": "x"},'
            ' {"Date": "2024-01-15 10:00:01", "From": "lee", "Content": "y"}]}}}',
        ),
        (
            "imessage.txt",
            "Jan 15, 2024 10:00:00 AM\nRobin\nq\n\nTapbacks:\nLoved by Me\n\nJan 15, 2024 10:01:00 AM\nMe\na\n",
        ),
    ],
)
def test_messages_of_more_programs(log, tmp_path, name, text):
    file = tmp_path / name
    file.write_text(text)
    import_files(log, [file], Wanted(me="me"))
    (turn,) = log.turns()
    assert (turn.user_message, turn.bot_response, turn.timestamp) == ("q", "a", at("2024-01-15T10:01:00"))


@pytest.mark.parametrize(
    ("name", "text", "advice"),
    [
        ("nlu.yml", "nlu:\n- intent: tea\n  examples: |\n    - What is tea?\n", "without the answers"),
        ("nlu.md", "## intent:tea\n- What is tea?\n", "without the answers"),
        ("domain.yml", "version: '3.1'\nresponses:\n  utter_tea:\n  - text: A drink.\n", "without the questions"),
        ("messages.csv", "ID,Timestamp,Contents\n1,2024-01-15,a\n2,2024-01-15,b\n", "DiscordChatExporter"),
        ("labels.jsonl", '{"text": "What is tea?", "label": ["drinks"]}\n', "Labels are classes"),
        ("tasks.jsonl", '{"text": "What is tea?", "answer": "accept"}\n', "in no format"),
        ("batch.jsonl", '{"custom_id": "1", "response": {"body": {"choices": []}}}\n', "without the questions"),
        ("batch.jsonl", '{"custom_id": "1", "method": "POST", "body": {"messages": []}}\n', "without the answers"),
        ("chat.html", "<!DOCTYPE html>\n<html><body><p>Hi</p></body></html>\n", "export it as JSON or text"),
    ],
)
def test_what_holds_no_chats_says_what_to_do(log, tmp_path, name, text, advice):
    file = tmp_path / name
    file.write_text(text)
    with pytest.raises(DataError, match=advice):
        import_files(log, [file])


@pytest.mark.parametrize(
    "record",
    [
        {"messages": [{"role": "user", "content": "q"}], "response": "a"},
        {"messages": [{"role": "user", "content": "q"}], "completion": {"role": "assistant", "content": "a"}},
        {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}], "output": {"x": "y"}},
        {"params": {"messages": [{"role": "user", "content": "q"}]}, "result": {"message": {"content": "a"}}},
        {"request": {"contents": "q"}, "response": {"candidates": [{"content": {"parts": [{"text": "a"}]}}]}},
        {"inputs": {"topic": "q"}, "outputs": {"text": "a"}},
        {"ticket": {"requester_id": 1}, "comments": [{"author_id": 1, "body": "q"}, {"author_id": 2, "body": "a"}]},
        {"requester_id": 1, "comments": {"comments": [{"author_id": 1, "body": "q"}, {"author_id": 2, "body": "a"}]}},
    ],
)
def test_questions_and_answers_in_objects_of_their_own(log, tmp_path, record):
    file = tmp_path / "set.jsonl"
    file.write_text(json.dumps(record) + "\n")
    import_files(log, [file])
    assert [(turn.user_message, turn.bot_response) for turn in log.turns()] == [("q", "a")]
