"""When a job of SLURM is requeued."""

import signal
import subprocess

import pytest

from experiments.train import slurm_job


@pytest.fixture(scope="module")
def submitit():
    """Imported before a test captures stderr. submitit sets logging up, which ends absl's handler, and absl's handler
    closes its stream if that is not `sys.stderr` any more."""
    pytest.importorskip("submitit")


@pytest.mark.usefixtures("submitit")
@pytest.mark.parametrize(
    ("saves", "came_on"), [(True, ""), (False, "own"), (False, "own-1"), (False, ""), (False, "sibling")]
)
def test_a_job_is_requeued_unless_it_gets_nowhere(saves, came_on, monkeypatch, capfd, tmp_path):
    """Whatever checkpoints the other jobs of the sweep have written."""
    monkeypatch.setattr(slurm_job, "PATIENCE_SECONDS", 60 if saves else 0.5)
    script = f"trap '{'exit 138' if saves else ''}' USR1; echo ready; while true; do sleep 0.05; done"
    job = slurm_job.Command(["bash", "-c", script, f"--workdir={tmp_path}"], [str(tmp_path / "programs/own")])
    with subprocess.Popen(job.words, stdout=subprocess.PIPE, text=True) as process:
        job._process, job._checkpoints_before = process, job._checkpoints()
        assert process.stdout.readline() == "ready\n"
        if came_on:
            (tmp_path / "programs" / came_on / "checkpoints" / "5").mkdir(parents=True)
        requeued = job.checkpoint()
        assert process.wait() == (138 if saves else -signal.SIGKILL)
        if saves or came_on.startswith("own"):
            assert vars(requeued.function) == {"words": job.words, "folders": job.folders}
            assert job.checkpoint().function.words == job.words  # it has ended already
    error = capfd.readouterr().err
    assert (slurm_job.KILLED in error) != saves
    assert (slurm_job.STUCK in error) == (requeued is None) == (not saves and not came_on.startswith("own"))
