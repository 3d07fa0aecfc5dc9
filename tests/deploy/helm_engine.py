"""Helm's own engine over the chart, in a process of its own: the runtime of Go stays out of that of the tests."""

import json
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import helm_python
import yaml

CHART = Path(__file__).parent.parent.parent / "deploy" / "helm" / "trilemma"
RELEASE, NAMESPACE = "images", "prod"


def rendered(**values: Any) -> dict[str, dict[str, Any]]:
    """The chart's objects with these values, by kind. Raises ValueError with what Helm says of wrong values."""
    documents = [yaml.safe_load(text) for text in _render(json.dumps(values)).values()]
    return {document["kind"]: document for document in documents if document}


def complaints(**values: Any) -> list[dict[str, Any]]:
    """The warnings and errors of `helm lint`."""
    messages: list[dict[str, Any]] = _asked("lint", json.dumps(values))["messages"]
    return [message for message in messages if message["severity"] > 1]


@cache
def _render(values: str) -> dict[str, str]:
    manifests: dict[str, str] = _asked("render", values)
    return {name: text for name, text in manifests.items() if name.endswith(".yaml")}


def _asked(action: str, values: str) -> Any:
    ended = subprocess.run([sys.executable, __file__, action, values], capture_output=True, text=True)
    if ended.returncode:
        raise ValueError(ended.stderr)
    return json.loads(ended.stdout)


def main(action: str, values: dict[str, Any]) -> Any:
    if action == "lint":
        return helm_python.lint(CHART, values)
    with helm_python.Chart.load(CHART) as chart:
        chart.validate_schema(values)
        return chart.render(values, name=RELEASE, namespace=NAMESPACE)


if __name__ == "__main__":
    json.dump(main(sys.argv[1], json.loads(sys.argv[2])), sys.stdout)
