"""What a request brings beside its numbers: pictures and starting noise, from base64 to arrays of the model's size.

A picture is scaled by one rule: its largest centred part with the model's proportions is resized to the model's size.
One that fits into the model's size is left as it is, with black around it, as in training. It is turned as its EXIF
data says, its alpha channel is dropped, and it becomes grey for a model of one channel, or else RGB.
"""

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from service.engine.placement import Placement
from service.engine.runtime import Array
from service.engine.start import Mask
from service.errors import InvalidRequest
from service.requests.decoding import FORMATS, MODE_OF, from_base64, open_picture, size
from service.requests.request import GenerateRequest

MAX_NOISE = 20.0  # |x_T|, of normal numbers: what is far larger could overflow in the network
HALF = 128  # of a mask: from here on a pixel is painted anew
FIELDS = ("image", "mask", "noise", "to_noise")


@dataclass(frozen=True)
class Uploads:
    """A request's own arrays, as the model of this digest takes them."""

    model: str = ""
    image: NDArray[np.uint8] | None = None  # (C, H, W)
    mask: Mask | None = None  # (H, W): true where the image is painted anew
    noise: Array | None = None  # x_T, of a state's shape
    to_noise: Array | None = None


NONE = Uploads()


def uploaded(request: GenerateRequest) -> list[str]:
    """The fields that have to be decoded."""
    return [field for field in FIELDS if getattr(request, field) is not None]


def read(request: GenerateRequest, model: Placement) -> Uploads:
    """Raises InvalidRequest."""
    shape, state_shape = model.bundle.manifest.shape, model.bundle.manifest.state_shape
    picture = None if request.image is None else open_picture("image", from_base64("image", request.image))
    mask = None
    if request.mask is not None:
        masking = open_picture("mask", from_base64("mask", request.mask))
        if picture is not None and masking.size != picture.size:
            raise InvalidRequest.of("mask", f"it is {size(masking)}, and the image {size(picture)}", size(picture))
        mask = pixels("mask", masking, (1, *shape[1:]), Image.Resampling.BOX)[0] >= HALF
    return Uploads(
        model.digest,
        None if picture is None else pixels("image", picture, shape, Image.Resampling.BICUBIC),
        mask,
        None if request.noise is None else starting_noise("noise", request.noise, state_shape),
        None if request.to_noise is None else starting_noise("to_noise", request.to_noise, state_shape),
    )


def digest(array: NDArray[np.generic] | None) -> str | None:
    """What an array is in an ETag."""
    return None if array is None else hashlib.sha256(array.tobytes()).hexdigest()


def pixels(
    field: str, picture: Image.Image, shape: tuple[int, int, int], filter: Image.Resampling
) -> NDArray[np.uint8]:
    """The picture scaled to (C, H, W). Raises InvalidRequest for one that cannot be decoded, and for other channels."""
    channels, height, width = shape
    if channels not in MODE_OF:
        raise InvalidRequest.of(field, f"this model has {channels} channels, which no picture has", None)
    try:
        whole = ImageOps.exif_transpose(picture).convert(MODE_OF[channels])
        scaled = on_black(whole, (width, height)) or ImageOps.fit(whole, (width, height), filter)
    except Exception as error:  # a file that is cut off, and whatever else a decoder finds
        raise InvalidRequest.of(field, "the picture cannot be decoded: it is cut off, or damaged", FORMATS) from error
    return np.ascontiguousarray(np.asarray(scaled).reshape(height, width, channels).transpose(2, 0, 1))


def on_black(picture: Image.Image, size: tuple[int, int]) -> Image.Image | None:
    """The picture with black around it, None if it is larger."""
    left, top = ((most - own) // 2 for most, own in zip(size, picture.size, strict=True))
    if left < 0 or top < 0:
        return None
    canvas = Image.new(picture.mode, size)
    canvas.paste(picture, (left, top))
    return canvas


def starting_noise(field: str, text: str, shape: tuple[int, int, int]) -> Array:
    """x_T, of float32 as `POST /invert` has it. Raises InvalidRequest."""
    allowed = {"float32": shape, "min": -MAX_NOISE, "max": MAX_NOISE}
    raw = from_base64(field, text)
    if len(raw) != 4 * np.prod(shape):
        raise InvalidRequest.of(field, f"it has {len(raw)} bytes", allowed)
    array = np.frombuffer(raw, dtype="<f4").reshape(shape).astype(np.float32)
    if not (np.abs(array) <= MAX_NOISE).all():
        raise InvalidRequest.of(field, "it has numbers that are not finite, or too large", allowed)
    return array
