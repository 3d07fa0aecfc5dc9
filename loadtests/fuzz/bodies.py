"""Requests whose HTTP is right: bodies of the protocols, tensors of every datatype, and event streams."""

import struct
from random import Random
from typing import Any

from loadtests.fuzz.exchange import Attempt
from loadtests.fuzz.values import Raw, dumps, fields, number, text, value

JSON = b"application/json"
DATATYPES = ["BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64"]
DATATYPES += ["FP16", "BF16", "FP32", "FP64", "BYTES", "STRING", ""]
INPUTS = {"steps": "INT32", "seed": "UINT64", "class_label": "INT32", "n": "INT32", "eta": "FP32", "solver": "BYTES"}
INPUTS |= {"deadline_ms": "INT32", "priority": "BYTES", "index": "INT32", "step_size": "FP32", "guidance": "FP32"}
ELEMENTS: dict[str, list[Any]] = {"BYTES": ["ddim", "high"], "FP32": [0.0, 0.5, 1.0]}
GENERATE: dict[str, list[Any]] = {
    "method": ["ddim", "ddim", "vdm", "ddgan", "latent", "auto"],
    "steps": [1, 2, 3, 100_000],
    "seed": [0, 7, 2**64 - 1],
    "n": [1, 2, 65],
    "index": [0, 3, 2**31 - 1, 2**31],
    "class_label": [0, 3, "3", 9, 10, None],
    "solver": ["ddim", "dpmpp_2m", "langevin", "euler"],
    "settings": [{}, {"eta": 0.5}, {"eta": 2}, {"step_size": 0.5}, {"nothing": 1}],
    "eta": [0, 0.5, 1],
    "guidance": [0, 1, 2.5, 20, 20.5],
    "max_ms": [0.001, 50, 1e9],
    "max_distance": [0.001, 50, 1e9],
    "format": ["png", "jpeg", "webp", "npy", "gif"],
    "deadline_ms": [1, 1000, 86_400_000],
    "priority": ["high", "normal", "low", "none"],
    "preview_every": [1, 2],
}
OPENAI: dict[str, list[Any]] = {
    "model": ["ddim", "vdm", "ddgan", "dall-e-3"],
    "prompt": ["3", "0", "a cat"],
    "n": [1, 2],
    "size": ["auto", "32x32", "1024x1024"],
    "response_format": ["b64_json", "url"],
    "output_format": ["png", "webp"],
    "stream": [True, False],
    "partial_images": [0, 1, 3],
    "seed": [0, 7],
    "num_inference_steps": [1, 2, 4],
    "index": [0, 3],
    "solver": ["ddim", "ancestral"],
    "settings": [{}, {"eta": 0.5}, {"nothing": 1}],
    "guidance": [1, 2.5, 20.5, None],
    "quality": ["high"],
}


def post(path: str, body: bytes, *headers: bytes, version: bytes = b"1.1", content_type: bytes = JSON) -> bytes:
    head = [f"POST {path} HTTP/".encode() + version, b"Host: localhost", b"Content-Type: " + content_type, *headers]
    return b"\r\n".join([*head, b"Content-Length: %d" % len(body), b"Connection: close", b"", body])


def generation(random: Random) -> Attempt:
    accept = random.choice(
        (b"*/*", b"image/png", b"application/x-npy", b"text/html", b"image/*;q=0.5, application/json")
    )
    return Attempt("JSON", post("/generate", dumps(likely(random, GENERATE, "method")), b"Accept: " + accept))


def openai(random: Random) -> Attempt:
    return Attempt("OpenAI", post("/v1/images/generations", dumps(likely(random, OPENAI, "model", "prompt"))))


def stream(random: Random) -> Attempt:
    """Read to its end, or left at any byte."""
    left = random.choice((None, None, 0, random.randrange(3000)))
    version = random.choice((b"1.1", b"1.1", b"1.0"))
    if random.random() < 0.3:
        body = likely(random, OPENAI, "model", "prompt") | {"stream": True}
        return Attempt("event stream", post("/v1/images/generations", dumps(body), version=version), leaves_after=left)
    content = post(
        "/generate", dumps(likely(random, GENERATE, "method")), b"Accept: text/event-stream", version=version
    )
    return Attempt("event stream", content, leaves_after=left)


def likely(random: Random, likely_fields: dict[str, list[Any]], *required: str) -> dict[str, Any]:
    return {name: random.choice(likely_fields[name]) for name in required} | fields(random, likely_fields)


def inference(random: Random) -> Attempt:
    """Tensors in JSON and in binary, the header's length right or wrong."""
    inputs, binary = [], b""
    for name in random.sample(list(INPUTS), random.randrange(4)):
        content, data = tensor(random, name)
        inputs.append(content)
        binary += data
    body: dict[str, Any] = {"inputs": inputs}
    if random.random() < 0.3:
        body["outputs"] = [
            {"name": random.choice(("images", "x")), "parameters": {"binary_data": random.random() < 0.5}}
        ]
    if random.random() < 0.2:
        body[random.choice(("id", "parameters", "outputs", "x"))] = value(random)
    header = dumps(body)
    length = random.choice((len(header),) * 8 + (0, len(header) + 1, number(random)))
    headers = [f"Inference-Header-Content-Length: {length}".encode()] if binary or random.random() < 0.2 else []
    content_type = random.choice((JSON, b"application/octet-stream", b"application/json; charset=utf-8"))
    path = random.choice(("/v2/models/ddim/infer", "/v2/models/vdm/versions/1/infer", "/v2/models/x/infer"))
    return Attempt("tensors", post(path, header + binary, *headers, content_type=content_type))


def tensor(random: Random, name: str) -> tuple[dict[str, Any], bytes]:
    """An input, and its bytes behind the JSON."""
    datatype = INPUTS[name] if random.random() < 0.7 else random.choice(DATATYPES)
    shape: Any = (
        [1] if random.random() < 0.8 else random.choice(([], [0], [1, 1], [-1], [number(random)], value(random)))
    )
    content: dict[str, Any] = {
        "name": name if random.random() < 0.9 else text(random),
        "datatype": datatype,
        "shape": shape,
    }
    if random.random() < 0.5:
        content["data"] = [random.choice(ELEMENTS.get(datatype, [1, 2, 3]))] if random.random() < 0.8 else value(random)
        return content, b""
    data = packed(random, datatype)
    size = len(data) if random.random() < 0.8 else random.choice((0, 1, 4, Raw("-1"), number(random)))
    content["parameters"] = {"binary_data_size": size}
    return content, data


def packed(random: Random, datatype: str) -> bytes:
    """One element, most of the datatype's own size."""
    if datatype == "BYTES":
        word = random.choice((b"ddim", b"high", b"", b"\xff\x00"))
        return struct.pack("<I", len(word) if random.random() < 0.8 else random.randrange(2**32)) + word
    if random.random() < 0.6:
        return {
            "FP32": struct.pack("<f", random.choice((0.5, 1.0, float("nan"), float("inf")))),
            "UINT64": b"\7" + bytes(7),
        }.get(datatype, struct.pack("<i", random.choice((1, 2, 3, -1))))
    return random.randbytes(random.choice((0, 1, 2, 4, 8, 16)))
