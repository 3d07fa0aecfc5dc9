"""The one error of an import."""


class ImportProblem(Exception):
    """A checkpoint that cannot be imported; the message is one line, for the person who gave the file."""

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))
