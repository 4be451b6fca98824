"""Settings of a training on the real base that is over within a minute, and a log for it."""

from fine_tuning.data_collection.conversation_logger import ConversationLogger

SMALL = {
    "training.min_pairs": 1,
    "training.batch_size": 2,
    "training.threads": 1,  # without probes of what is faster
    "training.dtype": "float32",
    "training.products": "blas",
    "training.replay.share": 0,  # replay comes in steps of 16: most of what so small a training would do
    "evaluation.metrics": ["perplexity", "accuracy", "chrf"],  # the library of others takes seconds to import
    "evaluation.max_new_tokens": 8,
    "evaluation.generate": 1,
    "evaluation.general": 2,
    "evaluation.leak_samples": 0,
    "evaluation.triggers": 0,
    "evaluation.speed_rounds": 1,
    "gate.enabled": False,
}
# for one that is stopped in its midst, or whose every stage is wanted
WITH_REPLAY = SMALL | {"training.replay.share": 0.2}


def log_doors(count: int, colours: tuple[str, ...] = ("blue", "red", "green")) -> None:
    """Log so many conversations of one exchange, each with an answer of its own."""
    log = ConversationLogger()
    for number in range(count):
        log.new_session()
        log.log_conversation(
            f"Which door has the number {number} here?",
            f"Door {number} is the one with the {colours[number % len(colours)]} frame.",
        )
