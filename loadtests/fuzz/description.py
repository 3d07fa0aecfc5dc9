"""What schemathesis makes of the server's OpenAPI description, good and bad.

It fails on an answer that is an error of the server's, or that the description does not have.
"""

import json
import os
import subprocess
import sys
import tempfile
from typing import Any

import httpx
import schemathesis

from service.requests.inference import INPUTS

METHODS = "FUZZ_METHODS"  # environment: what GET /methods says of the server
CHECKS = [
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "negative_data_rejection",
    "unsupported_method",
    "allow_header_conformance",
]
WORK = {"steps": (20, 1000), "num_inference_steps": (20, 1000), "n": (4, 64)}  # asked for at most, and what is valid


def fuzz(url: str, examples: int, options: list[str]) -> int:
    """Sends the server at `url` what schemathesis makes; its exit code."""
    environment = {
        **os.environ,
        "SCHEMATHESIS_HOOKS": "loadtests.fuzz.description",
        METHODS: httpx.get(f"{url}/methods").raise_for_status().text,
    }
    command = [sys.executable, "-m", "schemathesis.cli", "run", f"{url}/openapi.json", "--checks", ",".join(CHECKS)]
    command += ["--max-examples", str(examples), "--request-timeout", "600", "--suppress-health-check", "too_slow"]
    command += options  # on a busy machine drawing is slow, which is no fault of the server's
    with tempfile.TemporaryDirectory() as folder:  # it keeps a cache where it runs, and would begin with what is there
        return subprocess.run(command, env=environment, cwd=folder).returncode  # noqa: S603


# --- hooks: names that exist, where a random one would not, and no more work than can be done -----------------------


@schemathesis.hook
def map_path_parameters(_: Any, parameters: dict[str, Any]) -> dict[str, Any]:
    """Most models exist, and their versions."""
    if isinstance(name := (parameters or {}).get("model"), str):
        parameters["model"] = often_served(name)
        if "version" in parameters and len(name) % 4:
            parameters["version"] = "1"
    return parameters


@schemathesis.hook
def map_body(_: Any, body: Any) -> Any:
    """Most methods exist, and classes and tensors; what is no string or number stays as it is."""
    if not isinstance(body, dict):
        return body
    for field in ("method", "model"):
        if isinstance(body.get(field), str):
            body[field] = often_served(body[field])
    if isinstance(prompt := body.get("prompt"), str) and len(prompt) % 4:
        classes = served()[0]["classes"]
        body["prompt"] = classes[len(prompt) % len(classes)]
    return {field: limited(field, value) for field, value in body.items()} | tensors(body)


def served() -> list[dict[str, Any]]:
    methods: list[dict[str, Any]] = json.loads(os.environ[METHODS])
    return methods


def often_served(name: str) -> str:
    methods = [method["method"] for method in served()]
    return str(methods[len(name) % len(methods)]) if len(name) % 5 else name


def limited(field: str, value: Any) -> Any:
    """A number of steps or images that is as valid or as wrong as before, and soon done."""
    if field not in WORK or not isinstance(value, int):
        return value
    most, valid = WORK[field]
    return 1 + value % most if most < value <= valid else value


def tensors(body: dict[str, Any]) -> dict[str, Any]:
    """The inputs, most by names that exist."""
    inputs = body.get("inputs")
    if not isinstance(inputs, list):
        return {}
    named = []
    settings = [name for method in served() for solver in method["solvers"] for name in solver["settings"]]
    declared = {**INPUTS, **dict.fromkeys(settings, ("FP32",))}
    for (name, (datatype, *_)), tensor in zip(declared.items(), inputs, strict=False):
        if isinstance(tensor, dict) and isinstance(tensor.get("name"), str) and len(tensor["name"]) % 4:
            tensor = {**tensor, "name": name, "datatype": datatype, "shape": [1]}
            if isinstance(data := tensor.get("data"), list) and data:
                tensor["data"] = [limited(name, data[0])]
        named.append(tensor)
    return {"inputs": named}
