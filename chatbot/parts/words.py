"""Explain terms in plain words, for tooltips: pages pass `meaning("epoch")` as `help`."""

_MEANINGS = {
    "base": "The model as it was downloaded. A fine-tuned version is made from it and never changes it.",
    "version": "What one training made. Versions are numbered and never change; one of them is live.",
    "live": "The version that answers in the chat and under `latest` in Ollama.",
    "gate": "The tests that a new version must pass before it answers: better on what was learned, no worse on the "
    "rest.",
    "epoch": "One pass over all that is learned. More passes learn more thoroughly, and too many learn by heart.",
    "loss": "How surprised the model is by the right answer, word by word. Lower is better.",
    "accuracy": "The share of the words of the right answers that were the model's first guess.",
    "validation": "Chats that are kept aside: the model never learns from them, so how well it answers them shows "
    "what it learned.",
    "learning rate": "How large each step of the training is. Too small learns nothing, too large forgets what was "
    "known.",
    "adapter": "The small file of changes that a training makes to the base: megabytes instead of gigabytes.",
    "rank": "How many directions the adapter may change in each layer: more can learn more, and take more memory.",
    "turn": "One question and its answer.",
    "dropped": "Turns that the cleaning leaves out, each for a reason that is named below. They stay in the log.",
    "excluded": "Turns that you left out of all learning. They stay in the log and can be included again.",
    "scrubbed": "Addresses, numbers and keys become placeholders such as [EMAIL] in what is learned; two different "
    "ones in a chat become [EMAIL_1] and [EMAIL_2]. The log keeps what was said.",
    "forget": "What was said goes from every file, and versions that learned it are replaced by one that never saw it.",
    "quantisation": "How coarsely a model's numbers are stored: fewer bits take less memory and answer a little less "
    "exactly.",
    "quality lost": "How much more surprised the model is, word by word, by texts that it never learned (its "
    "perplexity). Up to 1 % is hardly noticed.",
    "combined": "One version that knows what each of them learned. Their changes to the base become one change.",
    "weight": "How much of what this version learned goes into the new one: 1 is all of it, 0.5 half.",
    "token": "A piece of a word: the unit in which models read and write. A hundred tokens are about 75 English words.",
    "context": "How much text a model can look at at once, in tokens: all that was said, and the answer.",
    "temperature": "How freely words are chosen: 0 takes the likeliest each time, higher values are more varied.",
    "top-p": "Only the likeliest words are chosen from, until their chances add up to this share.",
    "likelihood": "The chance that a model would have written exactly this answer after this question, taken as a "
    "mean over its words.",
    "longest answer": "After so many tokens an answer is cut, so that none is endless.",
    "system prompt": "What the model is told before the chat: how to answer, in which role. It is recorded with each "
    "answer and learned.",
    "elo": "A rating from votes, as in chess: who wins against a strong one rises more. All begin at 1000.",
    "pinned": "A pinned version is kept whatever is tidied up.",
    "seed": "The number from which chance is drawn: the same seed and the same question give the same answer.",
}


def meaning(term: str) -> str:
    """Return the meaning of a term in one or two sentences. Raises KeyError for an unknown term."""
    return _MEANINGS[term]
