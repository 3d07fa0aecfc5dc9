"""`./run export CHECKPOINT -o BUNDLE`, and `./run export BUNDLE --target TARGET`.

Each runs in an environment of its own: the first has PyTorch, the second TensorRT.
"""

import argparse
import signal
from pathlib import Path

from bundle.files import BundleError
from bundle.gpu_manifest import PRECISIONS, TARGETS
from bundle.loading import load
from models.failures import Failure


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="./run export", description="Export a checkpoint to a bundle, or a bundle's graphs to engines for a GPU."
    )
    parser.add_argument("source", type=Path, help="a checkpoint's folder, or with --target a bundle's")
    parser.add_argument("-o", "--output", type=Path, help="the bundle's folder; an existing one is replaced")
    engines = parser.add_argument_group("engines for a GPU, written into the bundle")
    engines.add_argument("--target", choices=TARGETS, help="runtime of the engines")
    engines.add_argument("--precision", choices=PRECISIONS, help="default: fp16")
    engines.add_argument("--buckets", type=numbers, help="batch sizes; default: 1,2,4,8,16,32")
    engines.add_argument(
        "--architectures", type=names, help="GPU architectures for tensorrt-rtx; default: sm_80,sm_86,sm_89,sm_120"
    )
    arguments = parser.parse_args()
    if (arguments.output is None) == (arguments.target is None):
        parser.error("say -o BUNDLE for a checkpoint, or --target for a bundle")
    try:
        print(export_checkpoint(arguments) if arguments.output else export_engines(arguments))
    except (BundleError, Failure, OSError, ValueError) as error:
        parser.exit(1, f"{parser.prog}: {error}\n")
    except KeyboardInterrupt:
        parser.exit(128 + signal.SIGINT, f"{parser.prog}: stopped; nothing is changed\n")


def export_checkpoint(arguments: argparse.Namespace) -> str:
    """Exports a checkpoint to a bundle; a summary of it."""
    from export.onnx_bundle import export

    manifest = export(arguments.source, arguments.output)
    difference = manifest.parity.largest_difference
    return f"{arguments.output}: {manifest.name} {manifest.digest[:12]}, at most {difference:.1e} from PyTorch"


def export_engines(arguments: argparse.Namespace) -> str:
    """Builds a bundle's engines for a target; a summary of them."""
    from export.gpu_bundle import ARCHITECTURES, BUCKETS, BuildOptions, build

    default = ARCHITECTURES if arguments.target == "tensorrt-rtx" else ()
    options = BuildOptions(
        arguments.target,
        precision=arguments.precision or "fp16",
        buckets=arguments.buckets or BUCKETS,
        architectures=arguments.architectures or default,
    )
    engines, new = build(load(arguments.source), options)
    megabytes = sum(file.bytes for file in engines.files.values()) / 1e6
    error = max(engines.accuracy.by_solver.values())
    return (
        f"{arguments.source / engines.target}: {'built' if new else 'unchanged'}, {engines.target} {engines.version}, "
        f"{engines.precision}, {len(engines.files)} files, {megabytes:.1f} MB, images differ from fp32 by {error:.1e} "
        f"(tolerance {engines.accuracy.tolerance})"
    )


def numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",")]


def names(text: str) -> list[str]:
    return text.split(",")


if __name__ == "__main__":
    main()
