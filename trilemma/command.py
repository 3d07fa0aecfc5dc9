"""The command `trilemma`: generates images, says how likely images are, and lists the methods."""

import argparse
import math
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from trilemma.answers import Generated, Step
from trilemma.client import URL, Client
from trilemma.errors import TrilemmaError

SHOWN = 4  # pictures in the terminal at most
CELLS = 24  # width of one, in characters
WAY = ("steps", "solver", "eta", "max_ms", "max_distance", "dataset")  # how to sample; options are called as fields
BEGINNING = ("image", "strength", "mask", "noise", "to_noise", "to_seed")
FIELDS = (*WAY, *BEGINNING, "class_label", "guidance", "seed", "n", "index", "deadline_ms")
FORMATS = {".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg", ".webp": "webp", ".npy": "npy"}  # by suffix


def main(arguments: Sequence[str] | None = None) -> None:
    options = parser().parse_args(arguments)
    try:
        with Client(options.url, options.key) as client:
            options.do(client, options)
    except (TrilemmaError, httpx.InvalidURL, OSError, ValueError, EOFError) as error:  # the last three: of a file
        sys.exit(f"trilemma: {error}")
    except KeyboardInterrupt:  # the work is cancelled with its stream
        sys.exit(130)


def parser() -> argparse.ArgumentParser:
    whole = argparse.ArgumentParser(prog="trilemma", description="Images from a Trilemma server.")
    whole.add_argument("--url", default=os.environ.get("TRILEMMA_URL", URL), help="the server; default: %(default)s")
    whole.add_argument("--key", default=os.environ.get("TRILEMMA_KEY"), help="API key; default: $TRILEMMA_KEY")
    commands = whole.add_subparsers(required=True)
    generate = commands.add_parser("generate", help="generate images")
    generate.set_defaults(do=save)
    generate.add_argument("method", help="a method of `trilemma methods`, or auto")
    generate.add_argument("-o", "--output", type=output, required=True, help=f"file: {', '.join(FORMATS)}")
    generate.add_argument("--steps", type=int, help="network evaluations an image")
    generate.add_argument("--class", dest="class_label", help="class: a name, or a number that is no class's name")
    generate.add_argument("--guidance", type=finite, help="weight of classifier-free guidance; 1: without")
    generate.add_argument("--seed", type=int, help="0 to 2^64 − 1; drawn if absent")
    generate.add_argument("-n", type=int, help="number of images; with more than one, file names are numbered")
    generate.add_argument("--index", type=int, help="index of the first image of the seed")
    generate.add_argument("--solver", help="sampler")
    generate.add_argument(
        "--setting", action="append", type=setting, metavar="NAME=VALUE", help="setting of the solver; may be repeated"
    )
    generate.add_argument("--eta", type=finite, help="the same as --setting eta=VALUE")
    generate.add_argument("--max-ms", type=finite, help="method auto: time limit, milliseconds")
    generate.add_argument("--max-distance", type=finite, help="method auto: largest Fréchet distance")
    generate.add_argument("--dataset", help="method auto: data set, where models of several are served")
    generate.add_argument("--deadline-ms", type=int, help="time limit; a request that cannot meet it is refused")
    generate.add_argument("--image", type=Path, help="file to begin at: PNG, JPEG or WebP")
    generate.add_argument("--strength", type=finite, help="share of the steps that are taken from it, up to 1")
    generate.add_argument("--mask", type=Path, help="file as large: where it is white the image is painted anew")
    generate.add_argument("--to-seed", type=int, help="n images from the seed's to this one's")
    generate.add_argument(
        "--noise", type=starting_noise, help="file of `trilemma invert`, in place of the seed's noise"
    )
    generate.add_argument("--to-noise", type=starting_noise, help="the same: n images from --noise to it")
    invert = commands.add_parser("invert", help="find the starting noise of an image")
    invert.set_defaults(do=save_noise)
    invert.add_argument("method", help="a method of `trilemma methods`")
    invert.add_argument("image", type=Path, help="file: PNG, JPEG or WebP")
    invert.add_argument("-o", "--output", type=Path, required=True, help="file for the noise: .npy")
    invert.add_argument("--steps", type=int, help="steps, of two network evaluations each")
    invert.add_argument("--class", dest="class_label", help="class, as of generate")
    score = commands.add_parser("likelihood", help="bits per dimension of images: how unlikely they are")
    score.set_defaults(do=list_likelihoods)
    score.add_argument("method", help="a method of `trilemma methods` that has a likelihood")
    score.add_argument("files", type=Path, nargs="+", help="pictures, or .npy of uint8, or of float32 in [−1, 1]")
    score.add_argument("--class", dest="class_label", help="class of all images: a name, or a number that is no name")
    score.add_argument("--terms", help="network evaluations an image, or `all`; more: a smaller standard error")
    score.add_argument("--seed", type=int, default=0, help="0 to 2^64 − 1; default: %(default)s")
    score.add_argument("--deadline-ms", type=int, help="time limit of each file's request")
    commands.add_parser("methods", help="list the served methods").set_defaults(do=list_methods)
    return whole


def setting(value: str) -> tuple[str, float]:
    name, _, number = value.partition("=")
    return name, finite(number)


def finite(value: str) -> float:
    if not math.isfinite(number := float(value)):
        raise argparse.ArgumentTypeError(f"{value} is not finite")
    return number


def starting_noise(value: str) -> NDArray[np.float32]:
    try:
        noise: NDArray[np.float32] = np.load(value, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise argparse.ArgumentTypeError(f"{value}: {error}") from error
    return noise


def output(value: str) -> Path:
    if (path := Path(value)).suffix.lower() not in FORMATS:
        raise argparse.ArgumentTypeError(f"{value} ends in none of {', '.join(FORMATS)}")
    return path


def save(client: Client, options: argparse.Namespace) -> None:
    """Generates with a progress bar, writes the files, and shows them where the terminal can."""
    fields = {name: value for name in FIELDS if (value := getattr(options, name)) is not None}
    if options.setting:
        fields["settings"] = dict(options.setting)
    path: Path = options.output
    result = generate(client, options.method, {**fields, "format": FORMATS[path.suffix.lower()]})
    answer, paths = result.answer, [path]
    if len(result.files) > 1:
        paths = [path.with_stem(f"{path.stem}-{image['index']}") for image in answer["images"]]
    for each, file in zip(paths, result.files, strict=True):
        each.write_bytes(file)
    if path.suffix.lower() != ".npy":
        show(result.images[:SHOWN])
    label = "no class" if answer["class_label"] is None else f"class {answer['class_label']}"
    way = f"{answer['method']}, {answer['steps']} steps, {label}, seed {result.seed}"
    print(f"{way}: {answer['timing']['total_ms']:.0f} ms")
    print(*paths, sep="\n")


def save_noise(client: Client, options: argparse.Namespace) -> None:
    """Writes the noise, and prints how to come back to the image."""
    fields = {name: value for name in ("steps", "class_label") if (value := getattr(options, name)) is not None}
    inverted = client.invert(options.method, options.image, **fields)
    with options.output.open("wb") as file:
        np.save(file, inverted.noise)
    answer = inverted.answer
    way = [f"generate {answer['method']} --steps {answer['steps']} --solver {answer['solver']}"]
    way += [f"--setting {name}={value:g}" for name, value in answer["settings"].items()]
    way += [] if answer["class_label"] is None else [f"--class {shlex.quote(answer['class_label'])}"]
    print(f"{answer['timing']['total_ms']:.0f} ms; back to the image:")
    print("trilemma", *way, f"--noise {shlex.quote(str(options.output))} -o FILE")


def generate(client: Client, method: str, fields: dict[str, Any]) -> Generated:
    """The result, with a progress bar until it is there."""
    done: dict[int, int] = {}  # steps by image; the server may leave some out
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        bar = progress.add_task(method, total=None)
        for update in client.stream(method, **fields):
            if isinstance(update, Step):
                done[update.image] = update.index
                progress.update(bar, total=update.of * fields.get("n", 1), completed=sum(done.values()))
    assert isinstance(update, Generated), "a stream that ends otherwise raises"
    return update


def show(images: Sequence[Image.Image]) -> None:
    """By the terminal's graphics protocol (kitty's, or Sixel), else in coloured cells; only in a terminal."""
    if not (sys.stdin.isatty() and sys.stdout.isatty() and os.get_terminal_size().columns):
        return
    from textual_image.renderable import Image as Picture  # here, as importing it asks the terminal what it can do

    for image in images:
        Console().print(Picture(image, width=CELLS, height="auto"))


def list_likelihoods(client: Client, options: argparse.Namespace) -> None:
    fields = {name: getattr(options, name) for name in ("class_label", "terms", "seed", "deadline_ms")}
    table = Table("file", "image", "bits/dim", "± s.e.")
    for path in options.files:
        image = np.load(path, allow_pickle=False) if path.suffix.lower() == ".npy" else Image.open(path)
        answer = client.likelihood(options.method, image, **fields)
        for i, (bits, error) in enumerate(zip(answer.bits_per_dimension, answer.standard_error, strict=True)):
            table.add_row(str(path), str(i), f"{bits:.4f}", f"{error:.4f}")
    Console().print(table)


def in_words(solver: Mapping[str, Any]) -> str:
    """A solver with its settings, and with its steps where it takes only some numbers of them."""
    steps = f"({', '.join(map(str, solver['steps']))} steps)" if solver.get("steps") else ""
    return " ".join([solver["name"], *solver["settings"], *filter(None, [steps])])


def list_methods(client: Client, _: argparse.Namespace) -> None:
    table = Table("method", "family", "size", "steps", "default", "solvers and their settings", "classes")
    for method in client.methods():
        _channels, height, width = method["image_shape"]
        steps, solvers = method["steps"], ", ".join(map(in_words, method["solvers"]))
        size, limits = f"{width}×{height}", f"{steps['min']} to {steps['max']}"
        if guidance := method.get("guidance"):
            solvers += f"; guidance {guidance['min']:g} to {guidance['max']:g}"
        row = method["method"], method["family"], size, limits, str(steps["default"]), solvers
        table.add_row(*row, ", ".join(method["classes"]))
    Console().print(table)


if __name__ == "__main__":
    main()
