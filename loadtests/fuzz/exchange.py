"""One attempt: what is sent on a connection of its own, and what came of it."""

import contextlib
import http.client
import socket
from dataclasses import dataclass

TIMEOUT_S = 60.0  # for any read; what takes longer is a hang
FIRST_BYTES = 200


@dataclass(frozen=True)
class Attempt:
    """`leaves_after` bytes of the answer's body its client goes away. `whole`: nothing of the request is missing."""

    kind: str
    content: bytes
    method: str = "POST"
    leaves_after: int | None = None
    whole: bool = True


@dataclass(frozen=True)
class Outcome:
    """A status, or `left` by the client, `lost` by the server, `hung`; and how the answer ends."""

    name: str
    end: bytes = b""

    def is_fault(self, of: Attempt) -> bool:
        """Whether it is the server's. A 503 is honest: it says when to come back."""
        broken = self.name.isdecimal() and self.name >= "500" and self.name != "503"
        late = self.name == "408" and of.whole
        return broken or late or self.name in ("lost", "hung") or b'"status":500' in self.end


def attempt(address: tuple[str, int], what: Attempt) -> Outcome:
    """Sends it, and reads the first answer."""
    with socket.create_connection(address, timeout=TIMEOUT_S) as connection:
        with contextlib.suppress(ConnectionError):  # it was refused before its end: the answer is there
            connection.sendall(what.content)
        answer = http.client.HTTPResponse(connection, method=what.method)
        try:
            answer.begin()
            if what.leaves_after is not None:
                answer.read(what.leaves_after)
                return Outcome("left")
            return Outcome(str(answer.status), answer.read()[-FIRST_BYTES:])
        except TimeoutError:
            return Outcome("hung")
        except (OSError, http.client.HTTPException) as error:
            return Outcome("lost", repr(error).encode())
        finally:
            answer.close()
