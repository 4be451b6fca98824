"""Define every error that byoai raises on purpose.

ByoaiError                     exit 1   any of the errors below; the message says what is wrong, where, and what to do
├── ConfigError                exit 2   the configuration is wrong (all faults at once)
│   └── WrongState                    the job is in the wrong state for the request
├── DataError                  exit 3   the training data is wrong
│   ├── NoConversations               nothing to train on
│   ├── TooLittleData                 fewer pairs than training.min_pairs
│   ├── LogDamaged                    the log has lines that cannot be read
│   ├── TurnNotFound                  the log has no such turn, session or import
│   ├── TurnDeleted                   a turn was deleted on which an answer was based
│   ├── DatasetNotFound               no such upload or dataset
│   ├── WrongOffset                   a part of an upload does not follow the bytes received so far
│   ├── TooLarge                      a file or a part of it exceeds the size limit
│   └── QuotaReached                  the limit for the number or total size of uploads is reached
├── EngineError                exit 4   Ollama or the embedded engine failed
│   ├── EngineUnavailable             the engine does not answer, or is not installed
│   ├── EngineTooOld                  this version of Ollama is older than byoai needs
│   ├── ModelNotFound                 the engine has no model with this tag
│   ├── ModelDamaged                  the weights of a model are missing or incomplete
│   ├── NotSupported                  the engine or the model lacks the requested ability
│   └── ModelNotOurs                  the tag to write to belongs to a model that byoai did not make
├── TrainingError              exit 5   the base cannot be loaded, or the training failed
│   ├── NotEnoughMemory
│   └── CheckpointDamaged             a checkpoint is incomplete or was changed
├── ExportError                exit 6   the GGUF file cannot be read or written, or is not what was trained
├── PromotionRefused           exit 7   the new model must not go live
│   ├── ParityError                   its prompts differ from those of the training, or its answers do not end
│   └── GateRefused            exit 10  the new model failed a rule of the gate, and is kept as a candidate
├── NoRoom                     exit 1   the disk is full
├── Busy                       exit 8   another program holds the lock
├── JobNotFound                exit 1
└── Cancelled                  exit 130 stopped by the user; finished work is kept
"""


class ByoaiError(Exception):
    """The base class of all errors; `exit_code` is the exit status of the `byoai` command."""

    exit_code = 1


class ConfigError(ByoaiError):
    exit_code = 2


class WrongState(ConfigError):
    pass


class DataError(ByoaiError):
    exit_code = 3


class NoConversations(DataError):
    pass


class TooLittleData(DataError):
    pass


class LogDamaged(DataError):
    pass


class TurnNotFound(DataError):
    pass


class TurnDeleted(DataError):
    pass


class DatasetNotFound(DataError):
    pass


class WrongOffset(DataError):
    def __init__(self, message: str, size: int) -> None:
        super().__init__(message)
        self.size = size  # bytes received so far, where the next part must begin


class TooLarge(DataError):
    pass


class QuotaReached(DataError):
    pass


class NoRoom(ByoaiError):
    pass


class EngineError(ByoaiError):
    exit_code = 4


class EngineUnavailable(EngineError):
    pass


class EngineTooOld(EngineError):
    pass


class ModelNotFound(EngineError):
    pass


class ModelDamaged(EngineError):
    pass


class NotSupported(EngineError):
    pass


class ModelNotOurs(EngineError):
    pass


class TrainingError(ByoaiError):
    exit_code = 5


class NotEnoughMemory(TrainingError):
    pass


class CheckpointDamaged(TrainingError):
    pass


class ExportError(ByoaiError):
    exit_code = 6


class PromotionRefused(ByoaiError):
    exit_code = 7


class ParityError(PromotionRefused):
    pass


class GateRefused(PromotionRefused):
    exit_code = 10


class Busy(ByoaiError):
    exit_code = 8


class JobNotFound(ByoaiError):
    pass


class Cancelled(ByoaiError):
    exit_code = 130
