"""Trained runs evaluated again, from their checkpoints. The flags are those of `python -m experiments.evaluate`."""

import jax
from absl import flags

from experiments.common import assess, build, checks, cli, provenance, results
from experiments.common import run_folder as workdir
from experiments.common.run_folder import RunFolder
from experiments.common.settings import Settings
from vae import checkpoint

FLAGS = flags.FLAGS


def evaluate_all(path: str) -> None:
    """Prints the table of the runs in the workdir `path` at --checkpoint, and which are left out, with the reason; bad
    input, and none that is left, are one sentence and exit 1."""
    rows = []
    with cli.one_sentence():
        checks.refuse_links(path)
        folders = workdir.all_runs(path)
        if not folders:
            raise ValueError(f"--workdir={path} holds no run (no config.json); give the folder of a trained run")
        for folder in folders:
            try:
                rows.append(evaluate(folder))
            except ValueError as error:
                if len(folders) == 1:
                    raise
                print(f"left out: {error}")
        if not rows:
            raise ValueError(f"--workdir={path} has no run to evaluate: each of its {len(folders)} is left out")
    print(f"{results.heading(rows)}\n{results.to_markdown(rows)}")


def evaluate(folder: RunFolder) -> dict:
    """The test figures of a run at --checkpoint, also appended to its evaluations.jsonl, if they are not there.

    Raises:
      ValueError: if it diverged, or is not finished and --checkpoint names no epoch: the figures would be of no model
        that those of other seeds can be averaged with.
    """
    run, result = folder.settings(), folder.result()
    if result and result["status"] == "diverged":
        raise ValueError(f"{folder.path} diverged at step {result['step']}")
    if not result and not FLAGS.checkpoint.isdecimal():
        raise ValueError(f"{folder.path} is not finished; train it to its end, or name an epoch by --checkpoint")
    data = build.load_trained(run, FLAGS.data_dir, FLAGS.cache_dir)
    folder.claim(run, data)
    epoch, model, params = restore(folder, run, data, folder.epoch_of(FLAGS.checkpoint))
    asked = {"epoch": epoch, "eval_samples": FLAGS.eval_samples}
    before = [row for row in folder.rows("evaluations.jsonl") if asked.items() <= row.items()]
    with jax.default_matmul_precision(run.matmul_precision):
        if FLAGS.figures:
            from experiments.common import pictures  # matplotlib is slow to import

            pictures.draw_run(folder, data, model, params)
        if before and not FLAGS.again:
            print(f"{folder.path} was evaluated before, with as many samples; --again evaluates it anew")
            kept = (*results.FIGURES, "active_units_by_layer")
            figures = {name: value for name, value in before[-1].items() if name in kept}
            return run.json() | {"status": "done"} | asked | figures
        figures = assess.make_judge(model, data, run, FLAGS.eval_samples)(params)
    made = provenance.describe_environment()
    of_now = {"git_commit": made["git_commit"], "versions": ", ".join(map(" ".join, made["versions"].items()))}
    folder.append(asked | figures | of_now, "evaluations.jsonl")
    return run.json() | {"status": "done"} | asked | figures


def restore(folder: RunFolder, run: Settings, data, epoch: int | None = None):
    """The epoch, the model to be judged and its parameters of a checkpoint: the newest sound one, or that of `epoch`.

    Raises:
      ValueError: if it cannot be read, or there is none.
    """
    program = build.program(run, data)
    like = jax.eval_shape(program.init, build.arrays(run))
    found = checkpoint.restore(folder.checkpoints, like, None if epoch is None else [epoch])
    if found is None:
        others = [other for other in checkpoint.steps(folder.checkpoints) if epoch is not None and other != epoch]
        if others:
            raise ValueError(
                f"{folder.checkpoints / str(epoch)} cannot be read; take one of {', '.join(map(str, others))}"
            )
        raise ValueError(
            f"{folder.checkpoints} holds no checkpoint that can be read; delete {folder.path} and train it again"
        )
    return found[0], program.judged, found[1].params["model"]
