"""The one error of an import."""

LONGEST = 500  # of a message, which may have what stands in the file


class ImportProblem(Exception):
    """A checkpoint that cannot be imported; the message is one line, for the person who gave the file."""

    def __init__(self, message: str) -> None:
        line = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in " ".join(message.split()))
        super().__init__(line if len(line) <= LONGEST else f"{line[:LONGEST]}…")
