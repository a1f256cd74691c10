"""What the end of a command says about the workdir."""

import json

from experiments.common.settings import Settings
from experiments.train import results_table


def test_a_result_of_another_version_is_left_out_of_the_tables_and_loses_nothing(tmp_path, capsys):
    figures = {f"test_{name}_nats": 1.0 for name in ("nll", "elbo", "rate", "distortion")}
    for name, estimator in (("ours", "reparam"), ("theirs", "mine")):
        row = Settings().json() | {"estimator": estimator, "status": "done", "step": 5, **figures}
        (tmp_path / "runs" / name).mkdir(parents=True)
        (tmp_path / "runs" / name / "config.json").write_text("{}")
        (tmp_path / "runs" / name / "result.json").write_text(json.dumps(row))
    folders, rows = results_table.finished_runs(tmp_path)
    assert [folder.path.name for folder in folders] == ["ours"]
    assert [row["estimator"] for row in rows] == ["reparam"]
    assert "left out of the tables" in capsys.readouterr().out


def test_the_command_says_where_the_pictures_of_runs_are(tmp_path, capsys):
    figures = {f"test_{name}_nats": 1.0 for name in ("nll", "elbo", "rate", "distortion")} | {"active_units": 2.0}
    for seed in range(3):
        folder = tmp_path / "runs" / str(seed)
        (folder / "figures").mkdir(parents=True)
        (folder / "config.json").write_text("{}")
        (folder / "result.json").write_text(json.dumps(Settings(seed=seed).json() | {"status": "done"} | figures))
    said = lambda: results_table.write(tmp_path, [], "none") or capsys.readouterr().out
    assert "pictures" not in said()
    (tmp_path / "runs/1/figures/prior_samples.png").write_bytes(b"")
    assert f"pictures of runs: {tmp_path}/runs/1/figures\n" in said()
    (tmp_path / "runs/2/figures/prior_samples.png").write_bytes(b"")
    assert f"pictures of runs: {tmp_path}/runs/1/figures and 1 more\n" in said()
