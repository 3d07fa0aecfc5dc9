"""Where a request's images begin: its fields for that checked against each other, and against the model."""

from typing import Any

from bundle.loading import Bundle
from service.engine.jobs import MAX_IMAGES
from service.errors import InvalidRequest
from service.requests.request import GenerateRequest
from service.requests.uploads import Uploads, digest

STRENGTH = 0.8  # of image-to-image, where the request does not say
NEEDS = {"strength": "image", "mask": "image", "to_noise": "noise"}
EXCLUDES = {"noise": ("image", "to_seed")}


def resolve(bundle: Bundle, request: GenerateRequest, uploads: Uploads) -> dict[str, Any]:
    """The members of `Sampling` that say where the images begin. Raises InvalidRequest."""
    for field, needed in NEEDS.items():
        if getattr(request, field) is not None and getattr(request, needed) is None:
            raise InvalidRequest.of(field, f"it is of use with {needed!r} alone", None)
    for field, others in EXCLUDES.items():
        for other in others:
            if getattr(request, field) is not None and getattr(request, other) is not None:
                raise InvalidRequest.of(field, f"it cannot be there with {other!r}", None)
    if request.image is not None:
        require_images(bundle)
    if (request.to_seed is not None or request.to_noise is not None) and request.n < 2:
        raise InvalidRequest.of("n", "both ends are among the images", {"min": 2, "max": MAX_IMAGES})
    strength = request.strength
    if request.image is not None and strength is None:
        strength = STRENGTH if request.mask is None else 1.0
    arrays = {name: digest(getattr(uploads, name)) for name in ("image", "mask", "noise", "to_noise")}
    return {**arrays, "strength": strength, "to_seed": request.to_seed}


def require_images(bundle: Bundle) -> None:
    """Raises InvalidRequest for a model that cannot begin at an image."""
    if not bundle.takes_images:
        why = "has no graph from an image to its latents" if bundle.decodes else "has no noise levels for images"
        raise InvalidRequest.of("image", f"{bundle.manifest.name} {why}", None)
