"""Available memory: the least of system, control groups and address space."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import psutil
import pytest
from helpers import REPOSITORY

from mpp_jax.memory import available_device_memory, available_memory, mapped_zeros

SYSTEM = 10**10


@pytest.fixture(autouse=True)
def _system(monkeypatch):
    class Memory:
        available = SYSTEM

    monkeypatch.setattr(psutil, "virtual_memory", lambda: Memory)


def group(root: Path, place: str, values: dict[str, str]) -> None:
    folder = root / "sys/fs/cgroup" / place
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in values.items():
        (folder / name).write_text(f"{value}\n")


def process_in(root: Path, text: str) -> None:
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(text)


def test_without_groups_it_is_the_systems(tmp_path):
    assert available_memory(tmp_path) == SYSTEM
    process_in(tmp_path, "0::/\n")
    assert available_memory(tmp_path) == SYSTEM
    group(tmp_path, "", {"memory.max": "max", "memory.current": "5"})
    assert available_memory(tmp_path) == SYSTEM


def test_version_two_and_the_groups_above(tmp_path):
    process_in(tmp_path, "0::/job/step\n")
    stat = "anon 1\ninactive_file 300\nactive_file 7"
    group(tmp_path, "job", {"memory.max": "5000", "memory.current": "1000", "memory.stat": stat})
    group(tmp_path, "job/step", {"memory.max": "max", "memory.current": "900"})
    assert available_memory(tmp_path) == 5000 - (1000 - 300)
    group(tmp_path, "job/step", {"memory.high": "1500"})
    assert available_memory(tmp_path) == 1500 - 900
    group(tmp_path, "job/step", {"memory.current": "2000"})
    assert available_memory(tmp_path) == 0


def test_version_one_in_a_container(tmp_path):
    """The path is the host's; the group itself is mounted at the top."""
    process_in(tmp_path, "9:name=systemd:/x\n4:cpu,memory:/docker/abc\n0::/\n")
    stat = "inactive_file 1\ntotal_inactive_file 50"
    here = {"memory.limit_in_bytes": "4000", "memory.usage_in_bytes": "150", "memory.stat": stat}
    group(tmp_path, "memory", here)
    assert available_memory(tmp_path) == 4000 - 100
    group(tmp_path, "memory", {"memory.limit_in_bytes": str(2**63 - 4096)})
    assert available_memory(tmp_path) == SYSTEM


def test_damaged_files_are_left_out(tmp_path):
    process_in(tmp_path, "nonsense\n0::/job\n")
    group(tmp_path, "job", {"memory.max": "many", "memory.current": "1", "memory.stat": "anon"})
    assert available_memory(tmp_path) == SYSTEM


@pytest.mark.skipif(sys.platform != "linux", reason="limits of the address space")
def test_address_space():
    code = (
        "import resource, mpp_jax.memory as m; free = m.available_memory();"
        "resource.setrlimit(resource.RLIMIT_AS, (2**31, 2**31));"
        "print(free, m.available_memory())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, check=True, capture_output=True, timeout=60
    )
    free, limited = map(int, done.stdout.split())
    assert 0 < limited < min(free, 2**31)


def test_the_device_of_these_tests_uses_the_hosts():
    assert available_device_memory() is None


def test_arrays_in_pages_of_their_own():
    """Zeros that can be written to, and that stay as long as anything looks at them."""
    array = mapped_zeros((3, 5))
    assert (array.shape, array.dtype, array.flags.writeable) == ((3, 5), np.float32, True)
    assert not array.any()
    array[1] = 7
    row = array[1]
    del array
    assert row.tolist() == [7.0] * 5
    assert mapped_zeros((0, 5)).shape == (0, 5)
