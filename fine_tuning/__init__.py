"""byoai: chat turn -> log -> dataset -> adapter -> GGUF -> Ollama tag -> chat.

Each layer imports only what stands to its right:

cli, api, chatbot > jobs > forgetting, review > pipeline > data_preparation | training | evaluation | model_management
    > data_collection, engines > state, paths, config, config_file, conversation > errors, thoughts

The stages between the bars never import each other: `pipeline` hands them paths and manifests. Read `pipeline.py` first.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fine_tuning.config import DatasetFormat, FineTuningConfig, FineTuningMethod
    from fine_tuning.jobs.tuner import ModelFineTuner

__version__ = "0.1.0"
__all__ = ["DatasetFormat", "FineTuningConfig", "FineTuningMethod", "ModelFineTuner"]


def __getattr__(name: str) -> Any:
    # Lazy, so that `byoai --help` and the chat page start without pydantic models of the whole pipeline.
    from importlib import import_module

    if name in {"DatasetFormat", "FineTuningConfig", "FineTuningMethod"}:
        return getattr(import_module("fine_tuning.config"), name)
    if name == "ModelFineTuner":
        return import_module("fine_tuning.jobs.tuner").ModelFineTuner
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
