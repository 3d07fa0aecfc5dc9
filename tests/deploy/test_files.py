"""The files under deploy/ and beside it, each judged by the tool that reads it."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from deploy.grafana.dashboards import DASHBOARDS, FOLDER, serialised
from deploy.standins import stand_in
from tests.conftest import REPOSITORY
from tests.deploy.conftest import DEPLOY, tool

COMPOSE = yaml.safe_load((REPOSITORY / "docker-compose.yml").read_text())
RULES = [
    rule
    for name in ("rules.yml", "alerts.yml")
    for group in yaml.safe_load((DEPLOY / "prometheus" / name).read_text())["groups"]
    for rule in group["rules"]
]
ALERTS = [rule for rule in RULES if "alert" in rule]


def accepts(command: list[str], folder: Path = REPOSITORY) -> None:
    ended = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout + ended.stderr


def test_hadolint_has_nothing_to_say_about_the_dockerfile() -> None:
    accepts([str(Path(sys.executable).parent / "hadolint"), "Dockerfile"])


def test_the_compose_file_follows_its_schema() -> None:
    check = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"]
    accepts([*check, "docker-compose.yml"])


def test_every_published_port_is_on_the_loopback_address() -> None:
    ports = [port for service in COMPOSE["services"].values() for port in service.get("ports", [])]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_every_folder_that_a_container_mounts_is_there() -> None:
    mounts = [mount.split(":") for service in COMPOSE["services"].values() for mount in service.get("volumes", [])]
    for source, *_ in mounts:
        assert source in COMPOSE["volumes"] or (REPOSITORY / source).is_dir(), source


@pytest.mark.parametrize("name", COMPOSE["services"])
def test_a_container_that_is_broken_into_can_do_little(name: str) -> None:
    service = COMPOSE["services"][name]
    assert service["read_only"]
    assert "/tmp" in service["tmpfs"]  # noqa: S108
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["pids_limit"] <= 256
    assert service["mem_limit"]
    assert {"max-size", "max-file"} <= set(service["logging"]["options"])
    assert not service["user"].startswith(("0", "root"))
    assert not {"privileged", "cap_add", "network_mode", "pid", "ipc", "userns_mode", "devices"} & set(service)
    writable = [mount for mount in service.get("volumes", []) if not mount.endswith(":ro")]
    assert {mount.partition(":")[0] for mount in writable} <= set(COMPOSE["volumes"])


def test_nobody_can_log_in_to_grafana_and_it_calls_nobody() -> None:
    settings = COMPOSE["services"]["grafana"]["environment"]
    off = ["AUTH_BASIC_ENABLED", "NEWS_NEWS_FEED_ENABLED", "SNAPSHOTS_EXTERNAL_ENABLED"]
    off += [f"ANALYTICS_{name}" for name in ("REPORTING_ENABLED", "CHECK_FOR_UPDATES", "CHECK_FOR_PLUGIN_UPDATES")]
    on = ["AUTH_DISABLE_LOGIN_FORM", "SECURITY_DISABLE_INITIAL_ADMIN_CREATION", "PLUGINS_PREINSTALL_DISABLED"]
    assert {name: settings[f"GF_{name}"] for name in [*off, *on]} == {
        **dict.fromkeys(off, "false"),
        **dict.fromkeys(on, "true"),
    }
    assert "GF_AUTH_ANONYMOUS_ORG_ROLE" not in settings  # a viewer's, by default
    assert not [name for name in settings if "PASSWORD" in name]


def test_every_image_that_is_pulled_is_named_by_its_digest() -> None:
    pulled = [service["image"] for service in COMPOSE["services"].values() if "build" not in service]
    pulled += re.findall(r"^ARG (?:PYTHON|CUDA)=(.+)$", (REPOSITORY / "Dockerfile").read_text(), re.MULTILINE)
    assert len(pulled) == 4
    for image in pulled:
        assert re.fullmatch(r"docker\.io/[a-z/]+:[\w.-]+@sha256:[0-9a-f]{64}", image), image
    stages = re.findall(r"^FROM (\S+)", (REPOSITORY / "Dockerfile").read_text(), re.MULTILINE)
    assert set(stages) == {"${PYTHON}", "${CUDA}", "packages"}


def test_the_docs_say_how_to_find_a_digest_and_use_another_base() -> None:
    base = re.search(r"^ARG PYTHON=([^@]+)@", (REPOSITORY / "Dockerfile").read_text(), re.MULTILINE)
    docs = "\n".join(path.read_text() for path in (REPOSITORY / "docs").glob("*.md"))
    assert base
    assert f"image={base[1]}\n" in docs
    assert "docker buildx imagetools inspect --format '{{.Manifest.Digest}}' \"$image\"" in docs
    assert "docker build --build-arg PYTHON=" in docs


def test_the_stand_in_for_prometheus_has_the_version_that_users_get() -> None:
    override = yaml.safe_load((DEPLOY / "compose.host.yml").read_text())["services"]
    assert override["prometheus"]["image"] == stand_in(COMPOSE["services"]["prometheus"]["image"])


def test_prometheus_scrapes_the_port_that_the_image_listens_on() -> None:
    config = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())
    targets = [
        target for job in config["scrape_configs"] for s in job.get("static_configs", []) for target in s["targets"]
    ]
    name, port = next(target for target in targets if target.startswith("trilemma")).split(":")
    assert name in COMPOSE["services"]
    assert f"EXPOSE {port}" in (REPOSITORY / "Dockerfile").read_text()


def test_promtool_accepts_the_configuration_and_its_rules() -> None:
    accepts([tool("promtool"), "check", "config", "prometheus.yml"], DEPLOY / "prometheus")


def test_every_alert_fires_when_it_should_and_only_then() -> None:
    accepts([tool("promtool"), "test", "rules", "alerts_test.yml"], DEPLOY / "prometheus")
    tests = yaml.safe_load((DEPLOY / "prometheus" / "alerts_test.yml").read_text())["tests"]
    fired, quiet = set(), set()
    for check in (check for test in tests for check in test["alert_rule_test"]):
        (fired if check["exp_alerts"] else quiet).add(check["alertname"])
    assert fired == quiet == {alert["alert"] for alert in ALERTS}


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert["alert"])
def test_every_alert_has_its_runbook_entry(alert: dict[str, dict[str, str]]) -> None:
    path, _, anchor = alert["annotations"]["runbook_url"].partition("#")
    headings = re.findall(r"^#+ (.+)$", (REPOSITORY / path).read_text(), re.MULTILINE)
    assert anchor in {heading.lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("board", DASHBOARDS, ids=lambda board: board["uid"])
def test_the_dashboard_that_grafana_reads_is_the_one_in_the_tables(board: dict[str, str]) -> None:
    path = FOLDER / f"{board['uid']}.json"
    assert path.read_text() == serialised(board), "run: python -m deploy.grafana.dashboards"


def test_the_dashboards_lead_to_each_other_and_to_a_source_that_is_provided() -> None:
    provisioned = yaml.safe_load((DEPLOY / "grafana/provisioning/datasources/prometheus.yml").read_text())
    sources = {source["uid"] for source in provisioned["datasources"]}
    boards = [json.loads(path.read_text()) for path in FOLDER.glob("*.json")]
    assert {board["links"][0]["url"] for board in boards} == {f"/d/{board['uid']}" for board in boards}
    for board in boards:
        panels = [panel for panel in board["panels"] if panel["type"] != "row"]
        assert {panel["datasource"]["uid"] for panel in panels} <= sources


@pytest.mark.parametrize("board", DASHBOARDS, ids=lambda board: board["uid"])
def test_no_two_panels_lie_on_each_other(board: dict[str, list[dict[str, dict[str, int]]]]) -> None:
    occupied: set[tuple[int, int]] = set()
    for place in (panel["gridPos"] for panel in board["panels"]):
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & occupied
        assert place["x"] + place["w"] <= 24
        occupied |= cells
