"""Container tools for a machine without Docker, and stand-ins for the images that it cannot pull.

Debian's Python and Prometheus stand under the official names and tags, so that Dockerfile and docker-compose.yml are
used as they are but for the digests. Needs root and Debian's packages.
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import yaml

REPOSITORY = Path(__file__).parent.parent
FOLDER = REPOSITORY / ".cache" / "images"
PACKAGES = ["buildah", "podman", "runc", "mmdebstrap"]
COMPOSE = Path(sys.executable).with_name("podman-compose")
BUILD = ["buildah", "bud", "--isolation", "chroot", "--format", "docker"]  # of another format HEALTHCHECK is dropped
BASE = """FROM scratch
ADD base.tar /
COPY ca.crt /etc/ssl/certs/ca-certificates.crt
RUN rm -f /usr/lib/python3*/EXTERNALLY-MANAGED && ln -sf /usr/bin/python3 /usr/local/bin/python
ENV PATH=/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin
"""
PROMETHEUS = """FROM {base}
RUN apt-get -qq update && apt-get -qq install --yes --no-install-recommends wget \\
    && cd /tmp && apt-get -qq download prometheus && dpkg -x prometheus_*.deb . \\
    && mv usr/bin/prometheus usr/bin/promtool /usr/bin && rm -rf /tmp/* \\
    && install --directory --owner=65534 --group=65534 /prometheus
USER 65534:65534
ENTRYPOINT ["/usr/bin/prometheus"]
"""


def call(command: list[str], environment: Mapping[str, str] | None = None) -> None:
    """Runs a command. Raises CalledProcessError if it fails."""
    subprocess.run(command, cwd=REPOSITORY, check=True, env=environment, stdout=sys.stderr)  # noqa: S603


def install() -> None:
    """Installs what is missing of the tools."""
    if missing := [name for name in PACKAGES if shutil.which(name) is None]:
        call(["apt-get", "-qq", "update"])
        call(["apt-get", "-qq", "install", "--yes", "--no-install-recommends", *missing])


def configure() -> dict[str, str]:
    """Writes the tools' configuration, with a store of its own; returns the environment that names it."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    (FOLDER / "containers.conf").write_text(
        '[containers]\ndefault_ulimits = ["nofile=4096:4096", "nproc=4096:4096"]\n'
        '[engine]\nruntime = "runc"\ncgroup_manager = "cgroupfs"\nevents_logger = "file"\n'
    )
    (FOLDER / "storage.conf").write_text(
        f'[storage]\ndriver = "overlay"\ngraphroot = "{FOLDER}/storage"\nrunroot = "{FOLDER}/run"\n'
    )
    return {
        **os.environ,
        "CONTAINERS_CONF": str(FOLDER / "containers.conf"),
        "CONTAINERS_STORAGE_CONF": str(FOLDER / "storage.conf"),
    }


def base() -> str:
    """The base of the image, as the Dockerfile names it: name, tag and digest."""
    line = re.search(r"^ARG PYTHON=(.+)$", (REPOSITORY / "Dockerfile").read_text(), re.MULTILINE)
    assert line is not None
    return line[1]


def stand_in(image: str) -> str:
    """The name of what stands in for an image: its own, without the digest, which is another's."""
    return image.partition("@")[0]


def make(environment: Mapping[str, str]) -> None:
    """Makes both stand-ins."""
    services = yaml.safe_load((REPOSITORY / "docker-compose.yml").read_text())["services"]
    python, prometheus = stand_in(base()), stand_in(services["prometheus"]["image"])
    if not (archive := FOLDER / "base.tar").exists():
        include = "python3,python3-venv,python3-pip,ca-certificates"
        partial = str(archive.with_suffix(".part.tar"))
        call(["mmdebstrap", "--quiet", "--variant=minbase", f"--include={include}", "bookworm", partial])
        Path(partial).rename(archive)
    shutil.copy("/etc/ssl/certs/ca-certificates.crt", FOLDER / "ca.crt")  # pip and apt inside a build go by it
    for name, content in {python: BASE, prometheus: PROMETHEUS.format(base=python)}.items():
        file = FOLDER / "Containerfile"
        file.write_text(content)
        call([*BUILD, "--quiet", "--layers", "--tag", name, "--file", str(file), str(FOLDER)], environment)
