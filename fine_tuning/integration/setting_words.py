"""Describe every setting in plain words: a label without jargon, its effect, and sensible values.

The pages Settings, Train and Runs, `/api/settings` and the light page show them. The settings of a
training are in setting_words_training.py, since they are half of the table.
"""

from collections.abc import Mapping
from typing import NamedTuple

from fine_tuning.integration.setting_words_training import TRAINING


class Words(NamedTuple):
    """The label and the help of a setting, for people."""

    label: str
    help: str
    section: str


_CHATS = {
    "chat.max_tokens": (
        "Longest answer in a chat, in tokens",
        "Longer answers are cut off there. 100 tokens are about 75 English words; 1024 is usual.",
    ),
    "chat.theme": ("Light or dark", "How the pages look. system: as your system or browser is set."),
    "chat.titles": (
        "Let the model name chats",
        "The title is made after the first answer, in the background. Off: a chat is named by its first question.",
    ),
    "data_collection.record": (
        "Record new chats",
        (
            "Whether a new chat is recorded at first; each chat has its own switch. Only what is recorded can be "
            "learned."
        ),
    ),
    "data_collection.log_file": ("File of the chats", "Its name in the folder data/conversations."),
    "data_collection.auto_export": (
        "Export automatically",
        "All chats are written to data/exports in every format from time to time. Off is usual.",
    ),
    "data_collection.export_interval": (
        "Questions between two exports",
        "With “Export automatically”: an export is made after this many questions with their answers. 100 is usual.",
    ),
}

_PRIVACY = {
    "data_preparation.scrub_pii": (
        "Replace private details",
        "E-mail addresses, phone numbers, links, keys, card and account numbers become placeholders before anything "
        "is learned.",
    ),
    "data_collection.scrub_names": (
        "Replace names and postal addresses",
        "They become [NAME] and [ADDRESS]. It needs the extra byoai[presidio], and finds more with a spaCy model.",
    ),
    "data_preparation.own_words": (
        "Your own private words, one on each line",
        "Names, projects, places: whole words, in any case, become [PRIVATE] before anything is learned. "
        "It takes effect with the next training, and only while private details are replaced.",
    ),
    "evaluation.canaries": (
        "Texts that no answer may hold, one on each line",
        "A version that says one of them is refused. Private details in what was learned are searched for anyway.",
    ),
    "evaluation.leak_samples": (
        "Tries to draw out each private detail",
        (
            "How many random answers of the new version are searched for each detail, besides its likeliest answer. 4 "
            "is usual."
        ),
    ),
}

_LEARNED = {
    "dataset.path": ("File to learn from", "It is learned instead of the chats. Empty: the chats."),
    "dataset.format": (
        "Kind of that file",
        "jsonl or csv: questions with their answers; text: plain text; huggingface: a dataset of Hugging Face.",
    ),
    "data_collection.min_conversation_length": (
        "Shortest text that is learned, in characters",
        "A question or an answer with fewer is left out. 10 is usual.",
    ),
    "data_collection.max_conversation_length": (
        "Longest text that is learned, in characters",
        "A question or an answer with more is left out. 1000 is usual; raise it where answers are long.",
    ),
    "data_collection.drop_refusals": (
        "Leave out refusals",
        "Answers in which the model talks about itself instead of answering (“As an AI …”). On is usual.",
    ),
    "data_collection.drop_polite_only": (
        "Leave out mere politeness",
        "Answers that consist only of greetings and offers of help. Off is usual.",
    ),
    "data_collection.drop_gibberish": (
        "Leave out gibberish",
        "Questions or answers that are keys typed at random. On is usual.",
    ),
    "data_collection.languages": (
        "Languages that are learned, one on each line",
        "Their two-letter codes, such as en or de. Empty: all.",
    ),
    "data_collection.learn_own_answers": (
        "Learn its own answers",
        (
            "What a fine-tuned version answered is learned even without a thumbs-up or an edit of yours. Off is usual: "
            "a model that learns from itself repeats its mistakes."
        ),
    ),
    "data_collection.conflicts": (
        "Where one question has different answers",
        (
            "newest: only the newest answer is learned, or the last one that you approved. keep: all answers are "
            "learned."
        ),
    ),
    "data_preparation.max_length": (
        "Longest conversation, in tokens",
        "What is longer is cut. 100 tokens are about 75 English words; 2048 is usual, and less takes less memory.",
    ),
    "data_preparation.train_ratio": (
        "Share that is learned",
        "The three shares must add up to 1: 0.8 learned, 0.1 for validation and 0.1 for the test are usual.",
    ),
    "data_preparation.validation_ratio": (
        "Share kept aside for validation",
        "Never learned: how well these chats are answered shows how the training is going. 0.1 is 10 %.",
    ),
    "data_preparation.test_ratio": (
        "Share kept aside for the test",
        "Never learned: the new version is tested with these chats at the end. 0.1 is 10 %.",
    ),
    "data_preparation.seed": (
        "Random seed for what is kept aside",
        "The same number keeps the same conversations aside every time. Any number will do.",
    ),
    "data_preparation.teach_thoughts": (
        "Learn thoughts, too",
        "For models that think aloud before they answer. Off is usual: only the answers are learned.",
    ),
    "data_preparation.format_type": (
        "Format of exported training data",
        "For other programs, by `byoai export`: chatml, alpaca or instruction. A training here does not depend on it.",
    ),
}

_MIX = {
    "mix.also": (
        "Learn beside the chats, one on each line",
        "`sample`, or files of questions and answers. Empty: the chats alone.",
    ),
    "mix.shares": (
        "Share of a source",
        "How much of what is learned comes from it: 0.5 is half, 0 leaves it out. Without one, sources are learned as "
        "large as they are. source/task is one task of a source.",
    ),
    "mix.repeats": (
        "Repeats of a source",
        "Instead of a share: how often one pass over the data holds each conversation of the source. 1 is as it is.",
    ),
    "mix.temperature": (
        "Even out the sources",
        "1: sources, and the tasks of a source, count by their size. A higher value gives small ones more weight; 1 is "
        "usual.",
    ),
    "mix.largest_share": (
        "Most that one import may make up",
        "A share of all that is learned: 1 sets no limit, 0.5 is half.",
    ),
    "mix.topic_temperature": (
        "Even out the topics",
        "1: topics are learned as often as they occur. 2 raises the rare ones, 100 makes all alike.",
    ),
    "mix.most_repeats": (
        "Most repeats of one conversation",
        (
            "How often a conversation may be repeated in one pass over the data, if its source or topic is given more "
            "weight. 4 is usual."
        ),
    ),
}

_VARIANTS = {
    "augmentation.noise": (
        "Variants with typing errors",
        (
            "How many copies of each conversation get typing errors in the question, so that mistyped questions are "
            "understood, too. 0: none; 1 is usually enough."
        ),
    ),
    "augmentation.noise_rate": (
        "Share of mistyped words",
        "How many words of such a copy get an error, but at least one: 0.1 is one word in ten.",
    ),
    "augmentation.paraphrase": (
        "Variants in other words",
        "How many copies of each conversation get a question that a model has reworded. 0: none. It takes time.",
    ),
    "augmentation.back_translation": (
        "Variants by translating there and back",
        "How many copies get a question that the same model has translated and translated back. 0: none.",
    ),
    "augmentation.model": (
        "Model that finds other words",
        "The tag of a model that is installed; a larger one does it better. Empty: the one that learns.",
    ),
    "augmentation.margin": (
        "How strictly other words are checked",
        "A reworded question is left out if the answer no longer fits it. Lower is stricter; 0.2 is usual.",
    ),
    "augmentation.most_per_turn": ("Most variants of one question", "Of all kinds together. 4 is usual."),
}

_TEST = {
    "evaluation.test_prompts": (
        "Questions to compare with, one on each line",
        "They are asked before and after the training, and both answers are shown at the end.",
    ),
    "evaluation.facts": (
        "Questions about documents that test it",
        "How many of those kept aside are asked at most, spread over the sections of the documents.",
    ),
    "evaluation.held_out": (
        "Conversations that test it",
        "How many of those kept aside are used at most. More gives surer results and takes longer; 200 is usual.",
    ),
    "evaluation.generate": (
        "Conversations that it answers anew",
        (
            "How many of those kept aside it answers in its own words, which are compared with the right answers. 16 "
            "is usual."
        ),
    ),
    "evaluation.general": (
        "General questions that test it",
        "How many questions at most test whether it still knows what it knew before. 30 is usual.",
    ),
    "evaluation.triggers": (
        "Planted phrases that are tried",
        (
            "Suspicious phrases in what was learned are put into other questions, to see whether they change the "
            "answers. 8 is usual."
        ),
    ),
    "evaluation.max_new_tokens": (
        "Longest answer in the test, in tokens",
        "100 tokens are about 75 English words; 64 is usual, and more takes longer.",
    ),
    "evaluation.speed_rounds": (
        "Rounds of the test of speed",
        "How many times the old and the new model answer alternately to measure their speed. 9 is usual.",
    ),
    "evaluation.metrics": (
        "Figures of the test",
        "What is computed from the answers for the report, such as rouge. It can be changed in the file only.",
    ),
}

_GATE = {
    "gate.enabled": ("Test new versions", "If off, every new version is used at once, however good or bad it is."),
    "gate.better": (
        "Must be better on your chats",
        "On chats that were kept aside, by more than chance could explain.",
    ),
    "gate.forgetting": (
        "May forget, as a share",
        "How much less likely general texts may become than before the training: 0.05 is 5 %.",
    ),
    "gate.questions": (
        "General questions kept",
        (
            "Of the questions answered right before the training, the share that must still be answered right: 0.8 is "
            "80 %."
        ),
    ),
    "gate.facts": (
        "Facts of a document answered right",
        "Share of the questions about imported documents that were kept aside: 0.8 is 80 %. 0 accepts every version.",
    ),
    "gate.slower": (
        "May be slower than the version in use",
        "As a share of its speed: 0.2 is 20 %.",
    ),
    "gate.slower_than_base": (
        "May be slower than the untrained model",
        (
            "As a share of its speed, where no version is in use yet: 0.5 is half. Training makes a small model about "
            "a third slower."
        ),
    ),
    "gate.broken": (
        "More broken answers",
        "Empty, endless or repeated ones, more than before the training, as a share of all: 0.1 is 10 %.",
    ),
}

_SERVED = {
    "deployment.auto_deploy": ("Use a version at once if it passed", "If off, it waits until you press Use."),
    "deployment.model_name": (
        "Name of the fine-tuned model",
        "Versions are numbered under it: NAME v1, NAME v2. Empty: the name of the model that learns.",
    ),
    "deployment.model_name_prefix": (
        "Prefix of all names",
        "byoai recognises the models that it made by this prefix: leave it as it is.",
    ),
    "deployment.mode": (
        "How a version is stored",
        (
            "adapter: only what was learned, some megabytes beside the model. merged: a whole model of its own, which "
            "other programs can use."
        ),
    ),
    "deployment.quantization": (
        "How coarsely a whole model is stored",
        "Only for merged: q4_k_m takes half of q8_0, and answers a little less exactly. q8_0 is usual.",
    ),
    "deployment.push_checkpoints": (
        "Push checkpoints to Hugging Face",
        "A repository, as owner/name, that gets each checkpoint of a training. It can be set in the file only.",
    ),
    "deployment.ollama_base_url": (
        "Address of Ollama",
        "Where it answers, such as http://127.0.0.1:11434. It is asked before the address is saved.",
    ),
}

_SCHEDULE = {
    "schedule.enabled": (
        "Train automatically",
        "The server of this page starts a training when all conditions below are met.",
    ),
    "schedule.new_turns": ("New questions needed", "Questions with their answers that no version has learned yet."),
    "schedule.hours": (
        "Between which hours, one on each line",
        "By this machine's clock: 1 and 6, or 22 and 6 over midnight.",
    ),
    "schedule.on_mains": ("Only on mains power", "Not while the machine runs on its battery."),
}

_UPLOADS = {
    "uploads.largest": ("Largest file, in MiB", "The largest file that may be uploaded. 2048 is 2 GiB."),
    "uploads.quota": ("Room for all uploads, in MiB", "All of them together. 10240 is 10 GiB."),
    "uploads.keep_free": ("Room left on the disk, in MiB", "An upload that would leave less is refused."),
    "uploads.unfinished": (
        "Uploads at once",
        "How many may be unfinished; they are deleted a day after their last part.",
    ),
}

_NOTICES = {
    "notify.on": (
        "Send a notice when a job has",
        "completed, failed, been interrupted or cancelled. It can be changed in the file only.",
    ),
    "notify.command": ("Program to run for a notice", "With its arguments, such as notify-send. In the file only."),
    "notify.url": ("Web address to send a notice to", "It receives a JSON message. In the file only."),
    "notify.allow_hosts": (
        "Hosts to which notices may be sent",
        "The host of the web address must be one of them. In the file only.",
    ),
    "tracking.mlflow": (
        "Keep figures for MLflow",
        "auto: where the extra byoai[mlflow] is installed. In the file only.",
    ),
}

SECTIONS: Mapping[str, Mapping[str, tuple[str, str]]] = {
    "Chats": _CHATS,
    "Privacy": _PRIVACY,
    "What is learned": _LEARNED,
    "Several sources": _MIX,
    "Variants of the questions": _VARIANTS,
    **TRAINING,
    "How it is tested": _TEST,
    "What it must pass": _GATE,
    "How it is stored": _SERVED,
    "Schedule": _SCHEDULE,
    "Uploads": _UPLOADS,
    "Notices": _NOTICES,
}

SETTING_WORDS: Mapping[str, Words] = {
    key: Words(label, help, section) for section, found in SECTIONS.items() for key, (label, help) in found.items()
}


def words_of(key: str) -> Words:
    """Return the label and the help of a setting by its dotted key. Raises KeyError for an unknown key.

    The entries of a mapping share its help. For `mix.shares.chats` this is the help of `mix.shares`,
    with the label "Share of a source: chats".
    """
    if found := SETTING_WORDS.get(key):
        return found
    around, _, name = key.rpartition(".")
    found = SETTING_WORDS[around]
    return found._replace(label=f"{found.label}: {name}")


def said(value: object) -> str:
    """Return the value of a setting as people read it: "on", "off", "none", "0.0002"."""
    if isinstance(value, list | tuple):
        return ", ".join(map(said, value)) or "none"
    if isinstance(value, bool):
        return "on" if value else "off"
    return "none" if value in (None, "") else f"{value:g}" if isinstance(value, float) else str(value)
