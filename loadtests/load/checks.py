"""Whether an answer's images are what was asked for. No locust here: importing it changes the whole process."""

import base64
import hashlib
import io
import json

import numpy as np
from PIL import Image


def wrong_images(content: bytes, accept: str, shape: tuple[int, int, int, int]) -> str:
    """Decodes an answer's images and says how they are not of `shape`, (n, C, H, W); nothing if they are.

    Colours are not compared, as WebP has no grey. Raises OSError, ValueError or KeyError where it decodes as nothing.
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
            return "a file that is not the one of its SHA-256"
    pictures = [Image.open(io.BytesIO(file)) for file in files]
    for picture in pictures:
        picture.load()  # decodes it whole
    sizes = [(picture.height, picture.width) for picture in pictures]
    return "" if sizes == [shape[2:]] * shape[0] else f"images {sizes}"


def wrong_events(content: bytes, shape: tuple[int, int, int, int]) -> str:
    """The same of a stream that ended: each step of each image in order, previews that decode, and the images last."""
    blocks = [block.splitlines() for block in content.decode().split("\n\n") if block.startswith("event: ")]
    events = [(name.removeprefix("event: "), json.loads(data.removeprefix("data: "))) for name, data in blocks]
    steps = [data for name, data in events if name == "step"]
    for image in range(shape[0]):
        seen = [step["index"] for step in steps if step["image"] == image]
        if not seen or seen != list(range(1, steps[0]["of"] + 1)):
            return f"image {image} took the steps {seen}"
    for preview in (step["preview"] for step in steps if "preview" in step):
        picture = Image.open(io.BytesIO(base64.b64decode(preview)))
        if (picture.height, picture.width) != shape[2:]:
            return f"a preview of {picture.size}"
    name, last = events[-1]
    if name != "completed":
        return f"it ended with {name}: {last}"
    return wrong_images(json.dumps(last).encode(), "application/json", shape)
