"""The request that all protocols are translated into: shapes and fixed ranges. `resolve` checks a model's limits."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat

from service.engine.jobs import MAX_IMAGES, Priority

MAX_SEED = 2**64 - 1
MAX_INDEX = 2**31 - 1  # an INT32, as the Open Inference Protocol has numbers
MIN_GUIDANCE, MAX_GUIDANCE = 0.0, 20.0  # beyond it, images are saturated, and states may overflow

Format = Literal["png", "jpeg", "webp", "npy"]

CLASS_LABEL = (
    "class: an integer is its number in the order of `GET /methods`, from 0; a string is its name, or its number in "
    "digits if no class has that name. Null or absent: no class"
)


GUIDANCE = (
    "weight w of classifier-free guidance: out = no class + w·(class − no class). 1 is without. Any other needs "
    "`class_label` and a model that takes guidance, as `GET /methods` says, and takes twice the work"
)


Seed = Annotated[int | None, Field(ge=0, le=MAX_SEED, description="drawn and returned if absent")]
DeadlineMs = Annotated[
    int | None,
    Field(
        ge=1,
        le=86_400_000,
        description="time limit of the answer; a request that cannot meet it is refused at once with 429",
    ),
]
QueuePriority = Annotated[Priority, Field(description="order among requests without a deadline")]


class GenerateRequest(BaseModel):
    """Images to generate. The same request with the same seed always gives the same images."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        json_schema_extra={"examples": [{"method": "ddim", "steps": 20, "seed": 7, "class_label": 3}]},
    )

    method: Annotated[str, Field(description="a method of `GET /methods`, or `auto` with `max_ms` or `max_distance`")]
    steps: Annotated[
        int | None, Field(ge=1, description="network evaluations an image; default: the model's recommended number")
    ] = None
    seed: Seed = None
    n: Annotated[int, Field(ge=1, le=MAX_IMAGES, description="number of images")] = 1
    index: Annotated[
        int,
        Field(
            ge=0,
            le=MAX_INDEX,
            description="index of the first image; a seed has many images, and these are index to index + n − 1",
        ),
    ] = 0
    class_label: Annotated[int | str | None, Field(description=CLASS_LABEL)] = None
    guidance: Annotated[FiniteFloat, Field(ge=MIN_GUIDANCE, le=MAX_GUIDANCE, description=GUIDANCE)] = 1.0
    solver: Annotated[str | None, Field(description="sampler; default: the model's first solver")] = None
    settings: Annotated[
        dict[str, FiniteFloat] | None,
        Field(description="settings of the solver, by name; `GET /methods` lists them with their ranges"),
    ] = None
    eta: Annotated[
        FiniteFloat | None, Field(ge=0, le=1, description="same as `settings.eta`: 0 is deterministic, 1 is DDPM")
    ] = None
    dataset: Annotated[
        str | None,
        Field(
            max_length=100,
            description="for `auto`: the data set of the models to choose from, as `GET /methods` names it",
        ),
    ] = None
    max_ms: Annotated[
        FiniteFloat | None,
        Field(
            gt=0,
            description="`auto` only: time limit, also the request's `deadline_ms`. The service takes the point of the "
            "smallest measured Fréchet distance that it can finish within this time now",
        ),
    ] = None
    max_distance: Annotated[
        FiniteFloat | None,
        Field(
            gt=0,
            description="`auto` only: quality limit. The service takes the fastest point within this Fréchet distance",
        ),
    ] = None
    image: Annotated[
        str | None,
        Field(
            description="base64 of a PNG, JPEG or WebP to begin at (image-to-image). It is scaled: the largest centred "
            "part with the model's proportions is resized to the model's size"
        ),
    ] = None
    strength: Annotated[
        FiniteFloat | None,
        Field(
            gt=0,
            le=1,
            description="share of the steps that are taken from the image; default: 0.8, or 1 with a mask",
        ),
    ] = None
    mask: Annotated[
        str | None,
        Field(
            description="base64 of a picture as large as the image (inpainting): where it is white the image is "
            "painted anew, and elsewhere it stays exactly as it is"
        ),
    ] = None
    noise: Annotated[
        str | None,
        Field(description="base64 of x_T in place of the seed's, float32 as `POST /invert` answers"),
    ] = None
    to_noise: Annotated[
        str | None,
        Field(description="with `noise`: a second x_T; the n images lie between both, evenly on the sphere"),
    ] = None
    to_seed: Annotated[
        int | None,
        Field(
            ge=0,
            le=MAX_SEED,
            description="the n images lie between image `index` of the seed and that of this one, evenly on the sphere",
        ),
    ] = None
    format: Annotated[Format, Field(description="file format of `images[].data` in a JSON answer")] = "png"
    deadline_ms: DeadlineMs = None
    priority: QueuePriority = "normal"
    preview_every: Annotated[
        int | None, Field(ge=1, description="in an event stream: steps between two previews of the predicted image")
    ] = None
