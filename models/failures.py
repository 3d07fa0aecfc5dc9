"""What ends a command with one line: the message says what is wrong and what to do.

Failure
├── DataError         a data set that cannot be read
├── CheckpointError   a checkpoint that cannot be read or begun from
├── EvaluateError     methods, data and a report that do not go together
├── FitError          a model that no plans can be fitted to
└── TrainError        a training that cannot begin or go on
    └── Interrupted   a training that was stopped by a signal, and saved
"""


class Failure(Exception):
    """Raised for what whoever runs a command can mend; `models.command_line` prints it."""

    exit_code = 1


class DataError(Failure):
    """The message names the file and what is wrong with it."""


class CheckpointError(Failure):
    """The message names the folder and what is wrong with it."""


class EvaluateError(Failure):
    """The message names the method or the file, and what does not fit."""


class FitError(Failure):
    """The message names the model and what it lacks."""


class TrainError(Failure):
    """The message says what is left on the disk, and how to go on."""


class Interrupted(TrainError):
    """The exit code is 128 plus the signal's number, as a shell has it."""

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal_number
