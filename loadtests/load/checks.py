"""Whether an answer has the requested images. This file does not import locust, which would patch the process."""

import base64
import hashlib
import io
import json

import numpy as np
from PIL import Image


def wrong_images(content: bytes, accept: str, shape: tuple[int, int, int, int]) -> str:
    """What is wrong with an answer whose images should have `shape` (n, C, H, W); empty if nothing is.

    Channels are not compared, as WebP has no grey. Raises OSError, ValueError or KeyError if it cannot be decoded.
    """
    if accept == "text/event-stream":
        return wrong_events(content, shape)
    if accept == "application/x-npy":
        array = np.load(io.BytesIO(content), allow_pickle=False)
        return "" if array.shape == shape and np.isfinite(array).all() else f"an array {array.shape}, or not finite"
    files = [content]
    if accept == "application/json":
        images = json.loads(content)["images"]
        files = [base64.b64decode(image["data"]) for image in images]
        if [hashlib.sha256(file).hexdigest() for file in files] != [image["sha256"] for image in images]:
            return "a file that does not match its SHA-256"
    pictures = [Image.open(io.BytesIO(file)) for file in files]
    for picture in pictures:
        picture.load()  # decodes all of it
    sizes = [(picture.height, picture.width) for picture in pictures]
    return "" if sizes == [shape[2:]] * shape[0] else f"images {sizes}"


def wrong_events(content: bytes, shape: tuple[int, int, int, int]) -> str:
    """As `wrong_images`, for a finished stream: steps in order to each image's last, valid previews, and images."""
    blocks = [block.splitlines() for block in content.decode().split("\n\n") if block.startswith("event: ")]
    events = [(name.removeprefix("event: "), json.loads(data.removeprefix("data: "))) for name, data in blocks]
    steps = [data for name, data in events if name == "step"]
    for image in range(shape[0]):
        indices = [step["index"] for step in steps if step["image"] == image]
        # A slow reader is spared some steps, but not the last.
        if not indices or indices != sorted({*indices, steps[0]["of"]}):
            return f"image {image} took the steps {indices}"
    for preview in (step["preview"] for step in steps if "preview" in step):
        picture = Image.open(io.BytesIO(base64.b64decode(preview)))
        if (picture.height, picture.width) != shape[2:]:
            return f"a preview of {picture.size}"
    name, last = events[-1]
    if name != "completed":
        return f"it ended with {name}: {last}"
    return wrong_images(json.dumps(last).encode(), "application/json", shape)
