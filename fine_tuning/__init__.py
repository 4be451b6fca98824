"""Fine-tune a chat model on one's own chats: chat turn -> log -> dataset -> adapter -> GGUF -> Ollama tag -> chat.

Each layer imports only layers to its right:

cli, api, chatbot > integration > jobs > evaluating, forgetting, merging, quantising, review, sweeping
    > pipeline > outcome > judging, resuming, run_answers, survey > planning > rewording > plan, workshop
    > data_preparation | training | evaluation | model_management > data_collection, engines
    > state, paths, runs, config, conversation, branches, durations, events, measurements, row_index, token_rows, units
    > errors, json_values, thoughts

The stages between the bars never import each other: `pipeline` passes paths and manifests between
them. Read `pipeline.py` first.
"""

import os
from typing import TYPE_CHECKING, Any

# TRL reports usage to its authors unless this is set before it is imported
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

if TYPE_CHECKING:
    from fine_tuning.config import DatasetFormat, FineTuningConfig
    from fine_tuning.config.training import FineTuningMethod
    from fine_tuning.jobs.tuner import FineTuningJob, ModelFineTuner, get_model_fine_tuner

__all__ = [
    "DatasetFormat",
    "FineTuningConfig",
    "FineTuningJob",
    "FineTuningMethod",
    "ModelFineTuner",
    "get_model_fine_tuner",
]


def __getattr__(name: str) -> Any:
    # Imported on first use, so that `byoai --help` and the chat page start without loading the whole pipeline.
    from importlib import import_module

    if name in {"DatasetFormat", "FineTuningConfig", "FineTuningMethod"}:
        return getattr(import_module("fine_tuning.config"), name)
    if name in {"FineTuningJob", "ModelFineTuner", "get_model_fine_tuner"}:
        return getattr(import_module("fine_tuning.jobs.tuner"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
