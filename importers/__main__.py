"""`./run import SOURCE [-o BUNDLE] [--card CARD] [--name NAME]`: from a published checkpoint to a bundle."""

import argparse
import re
import signal
import sys
from pathlib import Path
from typing import Any

from bundle.loading import Bundle
from bundle.manifest import AUTO
from export.step_module import StepModule
from importers import bundle, cards, parity_report, reference
from importers.importer import load
from importers.problems import ImportProblem
from importers.storage import FROM_RECORDED, Storage

PROGRAM = "./run import"
NAME = r"[a-z0-9][a-z0-9_.-]{0,63}"  # as a manifest has it


def main() -> None:
    arguments = parser().parse_args()
    try:
        print(run(arguments))
    except (ImportProblem, OSError, ValueError) as error:
        raise SystemExit(f"{PROGRAM}: {ImportProblem(str(error))}") from error
    except KeyboardInterrupt:
        print(f"{PROGRAM}: stopped; nothing is changed", file=sys.stderr)
        sys.exit(128 + signal.SIGINT)


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(prog=PROGRAM, description="Import a published checkpoint as a bundle.")
    result.add_argument("source", type=Path, help="the published file or folder")
    result.add_argument("-o", "--output", type=Path, help="the bundle's folder; default: bundles/NAME")
    result.add_argument("--card", type=Path, help="a TOML file with what the published file does not say")
    result.add_argument("--name", help="what callers ask for as `method`; default: by the file's name")
    result.add_argument(
        "--storage",
        type=Storage,
        choices=list(Storage),
        default=Storage.FLOAT32,
        help="of the weights: float16 takes half the file and rounds them; computing stays float32",
    )
    recorded = result.add_argument_group("comparison with recorded outputs of the original code")
    recorded.add_argument(
        "--reference", type=Path, metavar="FILE.npz", help="arrays x, t or sigma, y, z, out, xs, noises"
    )
    recorded.add_argument("--solver", help="of the recorded steps; default: the format's own")
    recorded.add_argument("--steps", type=int, help="of the solver; default: as many as are recorded")
    recorded.add_argument("--eta", type=float, help="of the solver")
    recorded.add_argument("--churn", type=float, help="of the solver")
    allowed = ", ".join(f"{tolerance.rms:g} in {storage}" for storage, tolerance in FROM_RECORDED.items())
    recorded.add_argument("--tolerance", type=float, help=f"largest RMS difference; default: {allowed}")
    return result


def run(arguments: argparse.Namespace) -> str:
    """Imports, and gives the line that says so. Raises ImportProblem, OSError or ValueError."""
    card = cards.load(arguments.card) if arguments.card else None
    name = arguments.name or bundle.name_of(arguments.source)
    if name == AUTO or not re.fullmatch(NAME, name):
        raise ImportProblem(f"--name: {name!r} is none: take lower-case letters, digits, _ . and -, and not {AUTO!r}")
    if arguments.reference and not arguments.reference.is_file():
        raise ImportProblem(f"--reference: {arguments.reference} is no file")
    model = load(arguments.source, card)
    target = arguments.output or Path("bundles") / name

    def report(written: Bundle, step: StepModule, storage: Storage) -> dict[str, Any]:
        kept = parity_report.compare(written, step, storage)
        if arguments.reference:
            kept |= reference.compare(written, step.wiring, reference.Options.of(arguments, storage))
        return kept

    manifest = bundle.write(model, arguments.storage, arguments.source, target, name, report)
    solvers = ", ".join(manifest.noise_schedule["solvers"])
    return f"{target}: {manifest.name} {manifest.digest[:12]}, {model.format}, solvers {solvers}"


if __name__ == "__main__":
    main()
