"""The limits of jobs and containers, as Linux writes them."""

import math

import pytest

from vae.devices import host_memory


@pytest.fixture
def limits(tmp_path, monkeypatch):
    """Writes {file: text} under a root of control groups, and reads the limits there."""
    monkeypatch.delenv("SLURM_MEM_PER_NODE", raising=False)

    def read(cgroup, files):
        for name, text in {"proc/cgroup": cgroup, **files}.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text)
        return list(host_memory._limits(tmp_path / "root", tmp_path / "proc"))

    return read


def group(folder, most, used, dropped, names=("max", "current", "inactive_file")):
    return {
        f"root/{folder}memory.{names[0]}": f"{most}\n",
        f"root/{folder}memory.{names[1]}": f"{used}\n",
        f"root/{folder}memory.stat": f"anon 5\n{names[2]} {dropped}\n",
    }


def test_limits_of_version_2_are_the_groups_own_and_those_above(limits):
    files = {
        **group("job/", 1000, 400, 100),
        **group("job/step/", "max", 300, 0),
        **group("job/step/task/", 900, 200, 50),
    }
    assert limits("0::/job/step/task\n", files) == [(900, 150), (1000, 300)]


def test_limits_of_version_1_in_a_container(limits):
    names = ("limit_in_bytes", "usage_in_bytes", "total_inactive_file")
    cgroup = "4:memory:/docker/12\n1:cpu:/\n0::/\n"
    assert limits(cgroup, group("memory/", 1000, 400, 100, names)) == [(1000, 300)]


def test_what_slurm_granted_is_a_limit_and_no_limit_is_none(limits, monkeypatch):
    assert limits("0::/\n", {}) == []
    monkeypatch.setenv("SLURM_MEM_PER_NODE", "8")
    [(most, used)] = limits("0::/\n", {})
    assert most == 8 * 2**20 < used  # by now
    assert host_memory.limit() == 8 * 2**20
    assert host_memory.free() == 0
    monkeypatch.setenv("SLURM_MEM_PER_NODE", "0")
    assert limits("0::/\n", {}) == []
    assert 0 < host_memory.free() <= host_memory.limit() < math.inf
