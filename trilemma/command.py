"""The command `trilemma`: generates images, and lists the methods."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
from PIL import Image
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from trilemma.answers import Generated, Refused
from trilemma.client import URL, Client

SHOWN = 4  # pictures in the terminal at most
CELLS = 24  # width of one, in characters
FORMATS = {".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg", ".webp": "webp", ".npy": "npy"}  # by suffix


def main(arguments: Sequence[str] | None = None) -> None:
    options = parser().parse_args(arguments)
    try:
        with Client(options.url, options.key) as client:
            options.do(client, options)
    except (Refused, httpx.TransportError) as error:
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
    generate.add_argument("--class", dest="class_label", type=class_label, help="class, by number or name")
    generate.add_argument("--seed", type=int, help="0 to 2^64 − 1; drawn if absent")
    generate.add_argument("-n", type=int, help="number of images; with more than one, file names are numbered")
    generate.add_argument("--solver", help="sampler")
    generate.add_argument("--eta", type=float, help="solver ddim: 0 to 1")
    generate.add_argument("--max-ms", type=float, help="method auto: time limit, milliseconds")
    generate.add_argument("--max-distance", type=float, help="method auto: largest Fréchet distance")
    generate.add_argument("--deadline-ms", type=int, help="time limit; a request that cannot meet it is refused")
    commands.add_parser("methods", help="list the served methods").set_defaults(do=list_methods)
    return whole


def class_label(value: str) -> int | str:
    return int(value) if value.isdecimal() else value


def output(value: str) -> Path:
    if (path := Path(value)).suffix.lower() not in FORMATS:
        raise argparse.ArgumentTypeError(f"{value} ends in none of {', '.join(FORMATS)}")
    return path


def save(client: Client, options: argparse.Namespace) -> None:
    """Generates with a progress bar, writes the files, and shows them where the terminal can."""
    names = "steps", "class_label", "seed", "n", "solver", "eta", "max_ms", "max_distance", "deadline_ms"
    fields = {name: value for name in names if (value := getattr(options, name)) is not None}
    path: Path = options.output
    made = generated(client, options.method, {**fields, "format": FORMATS[path.suffix.lower()]})
    paths = [path]
    if len(made.files) > 1:
        paths = [path.with_stem(f"{path.stem}-{i}") for i in range(len(made.files))]
    for each, file in zip(paths, made.files, strict=True):
        each.write_bytes(file)
    if path.suffix.lower() != ".npy":
        show(made.images[:SHOWN])
    answer = made.answer
    label = "no class" if answer["class_label"] is None else f"class {answer['class_label']}"
    print(
        f"{answer['method']}, {answer['steps']} steps, {label}, seed {made.seed}: {answer['timing']['total_ms']:.0f} ms"
    )
    print(*paths, sep="\n")


def generated(client: Client, method: str, fields: dict[str, Any]) -> Generated:
    with Progress(console=Console(stderr=True), transient=True) as progress:
        bar = progress.add_task(method, total=None)
        for said in client.stream(method, **fields):
            if isinstance(said, Generated):
                return said
            progress.update(bar, total=said.of * fields.get("n", 1), advance=1)
    raise httpx.RemoteProtocolError("the stream ended before the image was finished")


def show(images: Sequence[Image.Image]) -> None:
    """By the terminal's graphics protocol (kitty's, or Sixel), else in coloured cells; only in a terminal."""
    if not (sys.stdin.isatty() and sys.stdout.isatty() and os.get_terminal_size().columns):
        return
    from textual_image.renderable import Image as Picture  # here, as importing it asks the terminal what it can do

    for image in images:
        Console().print(Picture(image, width=CELLS, height="auto"))


def list_methods(client: Client, _: argparse.Namespace) -> None:
    table = Table("method", "family", "size", "steps", "default", "solvers", "classes")
    for method in client.methods():
        _channels, height, width = method["image_shape"]
        steps, solvers = method["steps"], ", ".join(solver["name"] for solver in method["solvers"])
        size, limits = f"{width}×{height}", f"{steps['min']} to {steps['max']}"
        row = method["method"], method["family"], size, limits, str(steps["default"]), solvers
        table.add_row(*row, ", ".join(method["classes"]))
    Console().print(table)


if __name__ == "__main__":
    main()
