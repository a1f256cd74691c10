"""The limits of memory are read from control groups and from SLURM."""

import math
import os
import resource

import pytest

from vae.devices import host_memory


@pytest.fixture
def limits(tmp_path, monkeypatch):
    """A function that writes {file: text} into a folder of control groups, and reads the limits there."""
    monkeypatch.delenv("SLURM_MEM_PER_NODE", raising=False)

    def read(cgroup, files):
        for name, text in {"proc/cgroup": cgroup, **files}.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text)
        return list(host_memory._limits(tmp_path / "root", tmp_path / "proc"))

    return read


def group(folder, allowed, used, droppable, names=("max", "current", "inactive_file")):
    return {
        f"root/{folder}memory.{names[0]}": f"{allowed}\n",
        f"root/{folder}memory.{names[1]}": f"{used}\n",
        f"root/{folder}memory.stat": f"anon 5\n{names[2]} {droppable}\n",
    }


def test_with_version_2_the_limits_are_those_of_the_group_and_of_the_groups_above(limits):
    files = {
        **group("job/", 1000, 400, 100),
        **group("job/step/", "max", 300, 0),
        **group("job/step/task/", 900, 200, 50),
    }
    assert limits("0::/job/step/task\n", files) == [(900, 150), (1000, 300)]


def test_with_version_1_the_limit_of_a_container_is_found_at_the_top(limits):
    names = ("limit_in_bytes", "usage_in_bytes", "total_inactive_file")
    cgroup = "4:cpuset,memory:/docker/12\n1:cpu:/\n0::/\n"
    assert limits(cgroup, group("memory/", 1000, 400, 100, names)) == [(1000, 300)]


def test_memory_that_slurm_granted_is_a_limit_unless_it_is_all_memory(limits, monkeypatch):
    assert limits("0::/\n", {}) == []
    monkeypatch.setenv("SLURM_MEM_PER_NODE", "8")
    [(allowed, used)] = limits("0::/\n", {})
    assert allowed == 8 * 2**20 < used  # this process uses more than 8 MiB
    assert used < 1.1 * 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert host_memory.limit() == 8 * 2**20
    assert host_memory.free() == 0
    monkeypatch.setenv("SLURM_MEM_PER_NODE", "0")
    assert limits("0::/\n", {}) == []
    assert 0 < host_memory.free() <= host_memory.limit() < math.inf


def test_the_memory_that_linux_calls_available_is_in_bytes():
    """The available memory is at least the memory that is not in use at all, up to a reserve."""
    unused = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")
    assert 0.5 * unused < host_memory._available() < math.inf
