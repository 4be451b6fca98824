"""Explain terms in plain words, for tooltips.

Pages pass `meaning("epoch")` as `help`, and `meanings_in(text)` for a text that may contain
technical words.
"""

import re

_MEANINGS = {
    "base": "The model as it was downloaded. A fine-tuned version is made from it and never changes it.",
    "version": "What one training made. Versions are numbered and never change; one of them is live (in use).",
    "live": "The version that answers in the chat and under `latest` in Ollama.",
    "gate": "The tests that a new version must pass before it answers: better on what was learned, no worse on the "
    "rest.",
    "epoch": "One pass over all that is learned. More passes learn more thoroughly, too many learn by heart.",
    "loss": "How surprised the model is by the right answer, word by word. Lower is better.",
    "accuracy": "The share of the words of the right answers that were the model's first guess.",
    "validation": "Chats that are kept aside: the model never learns from them, so how well it answers them shows "
    "what it learned.",
    "learning rate": (
        "How large each step of the training is. If it is too small, nothing is learned; if it is too large, the model "
        "forgets what it knew."
    ),
    "adapter": "The small file of changes that a training makes to the base: megabytes instead of gigabytes.",
    "rank": (
        "How many directions the adapter may change in each layer: with more it can learn more, but takes more memory."
    ),
    "turn": "One question and its answer.",
    "dropped": "Turns that the cleaning leaves out, each for a reason that is given below. They stay in the log.",
    "excluded": "Turns that you left out of all learning. They stay in the log and can be included again.",
    "scrubbed": "Addresses, numbers and keys become placeholders such as [EMAIL] in what is learned; two different "
    "ones in a chat become [EMAIL_1] and [EMAIL_2]. The log keeps what was said.",
    "forget": (
        "What was said is deleted from every file, and versions that learned it are replaced by one that never saw it."
    ),
    "quantisation": "How coarsely a model's numbers are stored: fewer bits take less memory and answer a little less "
    "exactly.",
    "quality lost": "How much more surprised the model is, word by word, by texts that it never learned (its "
    "perplexity). Up to 1 % is hardly noticed.",
    "combined": "One version that knows what each of them learned. Their changes to the base become one change.",
    "weight": "How much of what this version learned goes into the new one: 1 is all of it, 0.5 half.",
    "perplexity": "How many words a model wavers between, on average, before each word of a text. Lower is better.",
    "nats": "The unit of surprise: 0.7 nats less for a word means that the model finds it twice as likely.",
    "LoRA": "A training that leaves the model as it is and adds a small file of changes to it, the adapter.",
    "QLoRA": "As LoRA, while the model itself stays compressed in memory. It takes the least memory.",
    "GGUF": "The file format of models that Ollama and llama.cpp read.",
    "token": "A piece of a word: the unit in which models read and write. A hundred tokens are about 75 English words.",
    "context": "How much text a model can take into account at once, in tokens: the chat so far, and the answer.",
    "temperature": (
        "How random the choice of words is: 0 takes the likeliest word each time, higher values are more varied."
    ),
    "top-p": "Each word is drawn from the likeliest ones only, as many as together reach this probability.",
    "likelihood": (
        "The probability that a model would have written exactly this answer after this question, as a mean over its "
        "words."
    ),
    "longest answer": "An answer is cut off after this many tokens.",
    "system prompt": "What the model is told before the chat: how to answer, in which role. It is recorded with each "
    "answer and learned.",
    "elo": "A rating from votes, as in chess: winning against a strong model raises it more. All begin at 1000.",
    "pinned": "A pinned version is never deleted when old versions are removed.",
    "seed": (
        "The number that determines the random choices: the same seed and the same question give the same answer."
    ),
}


def meaning(term: str) -> str:
    """Return the meaning of a term in one or two sentences. Raises KeyError for an unknown term."""
    return _MEANINGS[term]


_TECHNICAL = ("nats", "QLoRA", "LoRA", "rank", "GGUF", "quantisation", "perplexity", "token")
_WORDS = {term: re.compile(rf"\b{term}s?\b", re.IGNORECASE) for term in _TECHNICAL}


def meanings_in(text: str, help: str = "") -> str | None:
    """Return `help`, followed by the meaning of each technical word in `text` or `help`; None if both are nothing."""
    found = [f"{term}: {meaning(term)}" for term, word in _WORDS.items() if word.search(f"{text} {help}")]
    return "\n\n".join(filter(None, [help, *found])) or None
