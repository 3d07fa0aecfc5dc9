import json
import subprocess
import sys

import pytest

from tests.conftest import REPOSITORY

# In a process of its own: it replaces the handlers of the root logger, which pytest's are among.
SCRIPT = """if True:
    import logging, sys
    import structlog
    from asgi_correlation_id import correlation_id
    from service.telemetry import logs
    from service.settings import Settings

    logs.configure(Settings(log_format=sys.argv[1], log_level="info"))
    correlation_id.set("abc-1")
    structlog.get_logger().debug("too quiet")
    structlog.get_logger().info("hello", rows=3)
    logging.getLogger("uvicorn.error").warning("from %s", "uvicorn")
    try:
        1 / 0
    except ZeroDivisionError as error:
        structlog.get_logger().error("broken", exc_info=error)
"""


def lines(log_format: str) -> list[str]:
    command = [sys.executable, "-c", SCRIPT, log_format]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, check=True, text=True).stderr.splitlines()


def test_a_json_log_is_an_object_a_line_with_the_request_id() -> None:
    hello, foreign, broken = map(json.loads, lines("json"))
    assert (hello["event"], hello["level"], hello["rows"], hello["request_id"]) == ("hello", "info", 3, "abc-1")
    assert (foreign["event"], foreign["level"], foreign["request_id"]) == ("from uvicorn", "warning", "abc-1")
    assert "ZeroDivisionError" in broken["exception"]
    assert all(line["timestamp"].endswith("Z") for line in (hello, foreign, broken))


def test_a_console_log_says_the_same() -> None:
    hello, foreign, *_ = lines("console")
    assert all(word in hello for word in ("hello", "rows=3", "request_id=abc-1"))
    assert "from uvicorn" in foreign


# What a terminal would obey, what would begin a line of its own, and what would turn the text around.
HOSTILE = "a\x1b[2J\r\n2026 [info] forged\x9b31m\x07\u2028\u202eb"
HOSTILE_SCRIPT = f"""if True:
    import logging, sys
    import structlog
    from service.telemetry import logs
    from service.settings import Settings

    hostile = {HOSTILE!r}
    logs.configure(Settings(log_format=sys.argv[1]))
    log = structlog.get_logger()
    log.info("request", path=hostile, nested=[{{hostile: hostile}}])
    log.info(hostile)
    logging.getLogger("uvicorn.error").warning("bad %s", hostile)
    try:
        raise ValueError(hostile)
    except ValueError as error:
        log.error("broken", exc_info=error)
"""


@pytest.mark.parametrize("log_format", ["console", "json"])
def test_no_text_of_a_caller_acts_on_the_terminal_or_forges_a_line(log_format: str) -> None:
    command = [sys.executable, "-c", HOSTILE_SCRIPT, log_format]
    output = subprocess.run(command, cwd=REPOSITORY, capture_output=True, check=True).stderr.decode()
    written = output.removesuffix("\n").split("\n")
    assert all(line.isprintable() for line in written), written
    assert all("forged" in event for event in written[:3])
    assert all(line.startswith("  ") for line in written[4:])  # the traceback: JSON has it in its fourth line
    assert "forged" in written[-1]
