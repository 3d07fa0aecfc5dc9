"""What the process may use, on made-up trees of both versions of cgroups and on this machine."""

import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from fastapi.testclient import TestClient
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families
from structlog.testing import capture_logs

from service.app import create_app
from service.resources import Resources, read, resident_bytes
from service.settings import Settings
from tests.conftest import REPOSITORY, ToyRuntime, write_bundle

GIB = 2**30
UNLIMITED_V1 = "9223372036854771712"  # what Linux says where nothing limits the memory
V2 = "30 24 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate"
V1 = """31 24 0:27 / /sys/fs/cgroup/cpu,cpuacct rw shared:5 - cgroup cgroup rw,cpu,cpuacct
32 24 0:28 / /sys/fs/cgroup/memory rw shared:6 - cgroup cgroup rw,memory
33 24 0:29 / /sys/fs/cgroup/unified rw shared:7 - cgroup2 cgroup2 rw"""
ROOT_MOUNT = "22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw"


def tree(root: Path, mounts: str, cgroups: str, files: dict[str, str]) -> Resources:
    """What is read of a machine of 64 GiB with such mounts and cgroups, and `files` under /sys/fs/cgroup."""
    (root / "proc" / "self").mkdir(parents=True)
    (root / "proc/self/mountinfo").write_text(f"{ROOT_MOUNT}\n{mounts}\n")
    (root / "proc/self/cgroup").write_text(cgroups)
    (root / "proc/meminfo").write_text(f"MemTotal:       {64 * 2**20} kB\nMemFree:  1 kB\n")
    for name, text in files.items():
        path = root / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return read(root)


def test_the_smallest_limit_of_all_ancestors_counts_in_version_2(tmp_path: Path) -> None:
    files = {
        "kube/cpu.max": "800000 100000\n",
        "kube/memory.max": f"{3 * GIB}\n",
        "kube/pod/cpu.max": "250000 100000\n",
        "kube/pod/memory.max": f"{8 * GIB}\n",
        "kube/pod/one/cpu.max": "max 100000\n",
        "kube/pod/one/memory.max": "max\n",
        "other/cpu.max": "10000 100000\n",  # of which it is no part
    }
    limits = tree(tmp_path, V2, "0::/kube/pod/one\n", files)
    assert (limits.cpu_quota, limits.memory_bytes) == (2.5, 3 * GIB)


def test_the_smallest_limit_of_all_ancestors_counts_in_version_1(tmp_path: Path) -> None:
    files = {
        "cpu,cpuacct/docker/cpu.cfs_quota_us": "150000\n",
        "cpu,cpuacct/docker/cpu.cfs_period_us": "50000\n",
        "cpu,cpuacct/docker/one/cpu.cfs_quota_us": "-1\n",
        "cpu,cpuacct/docker/one/cpu.cfs_period_us": "100000\n",
        "memory/memory.limit_in_bytes": UNLIMITED_V1,
        "memory/docker/memory.limit_in_bytes": f"{2 * GIB}\n",
        "memory/docker/one/memory.limit_in_bytes": UNLIMITED_V1,
        "unified/docker/one/cgroup.procs": "1\n",
    }
    cgroups = "4:memory:/docker/one\n3:cpu,cpuacct:/docker/one\n1:name=systemd:/docker/one\n0::/docker/one\n"
    limits = tree(tmp_path, V1, cgroups, files)
    assert (limits.cpu_quota, limits.memory_bytes) == (3, 2 * GIB)


def test_a_container_sees_its_own_cgroup_at_the_top_of_the_mount(tmp_path: Path) -> None:
    mount = "31 24 0:27 /docker/one /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory"
    files = {"memory/memory.limit_in_bytes": f"{2 * GIB}", "memory/inner/memory.limit_in_bytes": f"{GIB}"}
    assert tree(tmp_path / "a", mount, "4:memory:/docker/one", files).memory_bytes == 2 * GIB
    assert tree(tmp_path / "b", mount, "4:memory:/docker/one/inner", files).memory_bytes == GIB


@pytest.mark.parametrize("cgroup", ["/../../elsewhere", "/not/mounted/here"])
def test_of_a_cgroup_that_is_not_to_be_seen_the_top_is_read(tmp_path: Path, cgroup: str) -> None:
    mount = "30 24 0:26 /ours /sys/fs/cgroup rw - cgroup2 cgroup2 rw"
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "memory.max").write_text("1")
    limits = tree(tmp_path, mount, f"0::{cgroup}", {"memory.max": f"{GIB}"})
    assert limits.memory_bytes == GIB


def test_a_cgroup_whose_name_the_kernel_escapes_is_found(tmp_path: Path) -> None:
    mount = r"30 24 0:26 /a\040b /sys/fs/cgroup rw - cgroup2 cgroup2 rw"
    limits = tree(tmp_path, mount, "0::/a b/c\n", {"c/cpu.max": "100000 100000"})
    assert limits.cpu_quota == 1


def test_without_cgroups_the_machine_is_the_limit(tmp_path: Path) -> None:
    limits = tree(tmp_path, "", "", {})
    assert (limits.cpu_quota, limits.memory_bytes) == (None, 64 * GIB)
    assert limits.workers == len(os.sched_getaffinity(0))


def test_without_proc_nothing_is_known_but_the_affinity(tmp_path: Path) -> None:
    assert read(tmp_path) == Resources(
        len(os.sched_getaffinity(0)), None, None, resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    )
    assert resident_bytes(tmp_path) == 0


numbers = st.integers(1, 10**7)
cpu_files = st.one_of(
    st.tuples(st.just("max") | numbers, numbers).map(lambda pair: {"cpu.max": "{} {}\n".format(*pair)}),
    st.tuples(st.just(-1) | numbers, numbers).map(
        lambda pair: {"cpu.cfs_quota_us": f"{pair[0]}\n", "cpu.cfs_period_us": f"{pair[1]}\n"}
    ),
    st.sampled_from(["", "max", "0 0", "-1 -1", "a b", "1 2 3"]).map(lambda text: {"cpu.max": text}),
)


@given(levels=st.lists(cpu_files, min_size=1, max_size=4), affinity=st.integers(1, 512))
def test_there_is_never_no_worker_and_never_one_without_a_processor(
    levels: list[dict[str, str]], affinity: int
) -> None:
    files = {"/".join(["a"] * depth + [name]): text for depth, each in enumerate(levels) for name, text in each.items()}
    with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "sched_getaffinity", lambda _: set(range(affinity)))
        limits = tree(Path(folder), V2, f"0::/{'/'.join(['a'] * (len(levels) - 1))}\n", files)
    assert 1 <= limits.workers <= affinity
    if limits.cpu_quota is not None and limits.cpu_quota >= 1:
        assert limits.workers <= limits.cpu_quota


def test_a_process_of_its_own_obeys_affinity_and_rlimits() -> None:
    script = f"""if True:
        import os, resource
        resource.setrlimit(resource.RLIMIT_AS, ({2 * GIB}, {2 * GIB}))
        resource.setrlimit(resource.RLIMIT_NOFILE, (321, 321))
        os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])
        from service.settings import Settings
        from service import resources
        limits = resources.read()
        print(Settings().workers, limits.open_files, limits.memory_bytes <= {2 * GIB})
    """
    ended = subprocess.run([sys.executable, "-c", script], cwd=REPOSITORY, capture_output=True, check=True, text=True)
    assert ended.stdout.split() == ["1", "321", "True"]


@contextmanager
def serving(folder: Path, limits: Resources, **settings: int) -> Iterator[TestClient]:
    """A client of a service of a toy within `limits`, once it has loaded."""
    write_bundle(folder / "toy")
    app = create_app(Settings(bundles=folder, **settings), lambda bundle, threads: ToyRuntime(), limits)
    with TestClient(app) as client:
        while client.get("/readyz").status_code != 200:
            time.sleep(0.01)
        yield client


def test_the_limits_are_logged_at_start_and_shown_in_the_metrics(tmp_path: Path) -> None:
    limits = Resources(affinity=8, cpu_quota=2.5, memory_bytes=64 * GIB, open_files=1024)
    with capture_logs() as logged, serving(tmp_path, limits, workers=3) as client:
        text = client.get("/metrics").text
    line = next(each for each in logged if each["event"] == "resources")
    assert (line["affinity"], line["cpu_quota"], line["open_files"], line["workers"]) == (8, 2.5, 1024, 3)
    shown = {sample.name: sample.value for family in text_string_to_metric_families(text) for sample in family.samples}
    assert (shown["trilemma_workers"], shown["trilemma_usable_processors"]) == (3, 2.5)
    assert shown["trilemma_memory_limit_bytes"] == 64 * GIB
    assert shown["process_max_fds"] == resource.getrlimit(resource.RLIMIT_NOFILE)[0]


@pytest.mark.parametrize(("room", "warned"), [(-GIB, True), (GIB, False)])
def test_a_cache_that_does_not_fit_beside_the_models_is_warned_of(tmp_path: Path, room: int, warned: bool) -> None:
    cache_bytes = 3 * GIB
    limits = Resources(2, None, resident_bytes() + cache_bytes + room, 1024)
    with capture_logs() as logged, serving(tmp_path, limits, cache_bytes=cache_bytes):
        pass
    assert any("will not fit" in each["event"] for each in logged) == warned
