"""`./run export CHECKPOINT -o BUNDLE`."""

import argparse
from pathlib import Path

from export.bundle import ExportError, export


def main() -> None:
    parser = argparse.ArgumentParser(prog="./run export", description="Export a checkpoint to a bundle.")
    parser.add_argument("checkpoint", type=Path, help="folder with model.safetensors and model.json")
    parser.add_argument("-o", "--output", type=Path, required=True, help="the bundle's folder; replaced if it is there")
    arguments = parser.parse_args()
    try:
        manifest = export(arguments.checkpoint, arguments.output)
    except (ExportError, OSError, ValueError) as error:
        parser.exit(1, f"{parser.prog}: {error}\n")
    difference = manifest.parity.largest_difference
    print(f"{arguments.output}: {manifest.name} {manifest.digest[:12]}, off PyTorch by at most {difference:.1e}")


if __name__ == "__main__":
    main()
