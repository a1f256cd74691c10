"""Files that come from others touch nothing outside of their folder: archives, names of folders, and links."""

import zipfile
from pathlib import Path

import numpy as np
import pytest
from absl import flags

from experiments.common import foreign_files
from experiments.common.settings import Settings
from experiments.report import __main__ as report
from experiments.train import __main__ as train
from experiments.train import sweep
from tests.helpers.written_workdirs import Written, write_program
from vae import checkpoint
from vae import data as datasets
from vae.devices import host_memory


@pytest.mark.parametrize("member", ["../../escaped.npy", "/tmp/escaped.npy", "images.npy/../../escaped.npy"])
def test_an_archive_is_not_unpacked(member, tmp_path):
    path = tmp_path / "a/b/data.npz"
    path.parent.mkdir(parents=True)
    np.savez(path, images=np.zeros((4, 2, 2), np.uint8))
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(member, "escaped")
    assert len(datasets.load(f"npz:{path}").train) == 3
    assert [found.name for found in tmp_path.rglob("*") if found.is_file()] == ["data.npz"]
    assert not Path("/tmp/escaped.npy").exists()


def test_an_archive_that_would_fill_the_memory_is_refused(tmp_path, monkeypatch):
    np.savez_compressed(tmp_path / "bomb.npz", images=np.zeros((4000, 50, 50), np.uint8))
    assert (tmp_path / "bomb.npz").stat().st_size < 20_000
    monkeypatch.setattr(host_memory, "free", lambda: 1e6)
    with pytest.raises(ValueError, match="its arrays take 0.0 GB, and 0.0 GB of memory are free"):
        datasets.load(f"npz:{tmp_path / 'bomb.npz'}")


@pytest.mark.parametrize("dataset", ["npz:/../../x.npz", "../..", "/etc/passwd", "npz:..", "a\0b", "npz:" + "x" * 300])
def test_names_of_folders_are_made_of_plain_parts(dataset, tmp_path):
    runs = [Settings(dataset=dataset, seed=seed) for seed in (0, 1)]
    for some in (runs[:1], runs):
        parts = train.default_workdir(some).parts
        assert parts[0] == "results"
        assert len(parts) == 2
        assert parts[1] not in (".", "..")
        assert "\0" not in parts[1]
    name = sweep._folder_name(runs, {"dataset": dataset})
    assert Path("programs", name).parts == ("programs", name)
    assert "\0" not in name
    # The runs of a program have one data set, unless somebody has changed the file.
    folder = write_program(tmp_path, [Written(Settings(dataset=name), status=None) for name in (dataset, "digits")])
    for i, run in enumerate(folder.run_names()):
        assert folder.figures()[i].relative_to(folder.path).parts == ("figures", run)
        assert "\0" not in run


@pytest.mark.parametrize(
    "name",
    ["runs.json", "metrics.jsonl", ".lock", "figures", "figures/x.png", "programs/a", "programs/store"]
    + ["programs/a/runs.json", "programs/a/figures/x.png", ".figures.lock"],
)
def test_links_in_a_workdir_are_refused(name, tmp_path):
    (tmp_path / "precious").write_text("mine")
    link = tmp_path / "workdir" / name
    link.parent.mkdir(parents=True)
    link.symlink_to(tmp_path / "precious")
    with pytest.raises(ValueError, match=f"{name} is a symbolic link"):
        foreign_files.refuse_links(tmp_path / "workdir")


def test_a_report_shows_nothing_that_a_link_leads_to(tmp_path, capsys):
    (tmp_path / "precious").mkdir()
    (tmp_path / "workdir").mkdir()
    (tmp_path / "workdir/figures").symlink_to(tmp_path / "precious")
    options = flags.FlagValues()
    report.define_flags(options)
    options(["report", f"--workdir={tmp_path / 'workdir'}"])
    with pytest.raises(SystemExit):
        report.main(options)
    assert "figures is a symbolic link" in capsys.readouterr().err


def test_workdirs_checkpoints_and_foreign_files_may_be_links(tmp_path):
    (tmp_path / "there/programs/a").mkdir(parents=True)
    for name in ("data", "checkpoints", "programs/a/checkpoints"):
        (tmp_path / "there" / name).symlink_to(tmp_path)
    (tmp_path / "workdir").symlink_to(tmp_path / "there")
    foreign_files.refuse_links(tmp_path / "workdir")
    foreign_files.refuse_links(tmp_path / "nowhere")


def test_folders_that_are_no_checkpoints_are_left(tmp_path):
    for name in ("7", "08", "²", "9" * 20, "-1", "x"):
        (tmp_path / name).mkdir()
    assert checkpoint.steps(tmp_path) == [7]
    checkpoint.drop_after(tmp_path, 7)
    checkpoint.drop_before(tmp_path, 7)
    assert len(list(tmp_path.iterdir())) == 6
    checkpoint.drop_after(tmp_path, 0)
    assert len(list(tmp_path.iterdir())) == 5
