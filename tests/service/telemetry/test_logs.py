import json
import os
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


UNREAD = """if True:
    import sys

    import structlog

    from service.settings import Settings
    from service.telemetry import logs

    logs.configure(Settings(log_format="json"))
    log = structlog.get_logger()
    for number in range(3000):
        log.info("a line", number=number, long="x" * (5000 if number % 20 == 19 else 50))
    print("not stopped", flush=True)
    sys.stdin.read()
    log.info("the last line")
"""


def test_a_log_that_nobody_reads_stops_nothing_and_says_later_what_is_lost() -> None:
    command = [sys.executable, "-c", UNREAD]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, cwd=REPOSITORY, **pipes) as process:  # type: ignore[call-overload]
        assert process.stdout.readline() == b"not stopped\n"
        first = os.read(process.stderr.fileno(), 2**20)
        _, rest = process.communicate()
    lines = [json.loads(line) for line in (first + rest).splitlines() if line.endswith(b"}")]
    read = [line["number"] for line in lines if "number" in line]
    (lost,) = [line["event"] for line in lines if line["event"].endswith("lines of the log are lost: nobody read them")]
    assert read == list(range(len(read)))
    assert len(read) + int(lost.split()[0]) == 3000
    assert lines[-1]["event"] == "the last line"


def test_a_log_whose_reader_is_gone_stops_nothing() -> None:
    script = f'"{sys.executable}" -c "$0" 2>&1 >&3 </dev/null | true'
    ended = subprocess.run(["sh", "-c", f"{{ {script}; }} 3>&1", UNREAD], cwd=REPOSITORY, capture_output=True)
    assert ended.stdout == b"not stopped\n"
