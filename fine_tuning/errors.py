"""Every error that byoai raises on purpose.

ByoaiError                     exit 1   anything below; the message says what is wrong, where, and what to do
├── ConfigError                exit 2   the configuration (all its faults at once)
│   └── WrongState                    what was asked for fits a job in another state
├── DataError                  exit 3   the data to learn from
│   ├── NoConversations
│   ├── TooLittleData
│   ├── LogDamaged
│   ├── TurnNotFound                  the log holds no such turn, session or import
│   ├── TurnDeleted                   a turn was deleted that an answer was made from
│   ├── DatasetNotFound               there is no such upload or dataset
│   ├── WrongOffset                   a part of an upload that does not follow what has come so far
│   ├── TooLarge                      a file, or a part of it, is larger than it may be
│   └── QuotaReached                  uploads are as many, or as large together, as they may be
├── EngineError                exit 4   Ollama or the embedded engine
│   ├── EngineUnavailable
│   ├── EngineTooOld
│   ├── ModelNotFound
│   ├── ModelDamaged                       a model's weights are gone, or not whole
│   ├── NotSupported                       this engine, or this model, cannot do what was asked
│   └── ModelNotOurs                       a tag that is wanted belongs to a model that byoai did not make
├── TrainingError              exit 5   loading, memory, the training itself
│   ├── NotEnoughMemory
│   └── CheckpointDamaged
├── ExportError                exit 6   GGUF, disk space
├── PromotionRefused           exit 7   the model was made but must not go live
│   ├── ParityError
│   └── GateRefused            exit 10  it failed a rule of the gate; it is kept as a candidate
├── NoRoom                     exit 1   the disk is full
├── Busy                       exit 8   another retrain holds the lock
├── JobNotFound                exit 1
└── Cancelled                  exit 130 stopped by the user; what was done is kept
"""


class ByoaiError(Exception):
    """Base of all; `exit_code` is what the command line returns for it."""

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
        self.size = size  # bytes that have come: where to go on


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
