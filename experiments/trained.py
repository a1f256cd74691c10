"""Trained runs evaluated again, from their checkpoints. The flags are those of `python -m experiments.evaluate`."""

import jax
from absl import flags

from experiments import assess, build, cli, results, untrusted, workdir
from experiments.settings import Settings
from experiments.workdir import RunFolder
from vae import checkpoint

FLAGS = flags.FLAGS


def evaluate_all(path: str) -> None:
    """Prints the table of the runs in the workdir `path` at --checkpoint, and which are left out, with the reason; bad
    input, and none that is left, are one sentence and exit 1."""
    rows = []
    with cli.one_sentence():
        untrusted.refuse_links(path)
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
    data = build.load_data(run, FLAGS.data_dir, FLAGS.cache_dir)
    folder.claim(run, data)
    epoch, model, params = restore(folder, run, data, _chosen(folder, FLAGS.checkpoint))
    asked = {"epoch": epoch, "eval_samples": FLAGS.eval_samples}
    before = [row for row in folder.rows("evaluations.jsonl") if asked.items() <= row.items()]
    with jax.default_matmul_precision(run.matmul_precision):
        if FLAGS.figures:
            from experiments import pictures  # matplotlib is slow to import

            pictures.draw_run(folder, data, model, params)
        if before and not FLAGS.again:
            print(f"{folder.path} was evaluated before, with as many samples; --again evaluates it anew")
            figures = {name: value for name, value in before[-1].items() if name in results.FIGURES}
            return run.json() | {"status": "done"} | asked | figures
        figures = assess.make_judge(model, data, run, FLAGS.eval_samples)(params)
    made = workdir.circumstances()
    of_now = {"git_commit": made["git_commit"], "versions": ", ".join(map(" ".join, made["versions"].items()))}
    folder.append(asked | figures | of_now, "evaluations.jsonl")
    return run.json() | {"status": "done"} | asked | figures


def _chosen(folder: RunFolder, name: str) -> int | None:
    """The epoch of the checkpoint of that name, None for the newest sound one.

    Raises:
      ValueError: if there is no such checkpoint.
    """
    found = checkpoint.steps(folder.checkpoints)
    if name == "latest":
        return None
    if name == "best":
        epoch = checkpoint.best(found, folder.validation_bounds())
        if epoch is None:
            raise ValueError(
                f"--checkpoint=best is the best by the validation bound, and {folder.path} was trained without a "
                f"validation split; take --checkpoint=latest, or train with --validation_size"
            )
        return epoch
    if not name.isdecimal() or int(name) not in found:
        raise ValueError(
            f"--checkpoint={name} is not in {folder.checkpoints}; take latest, best or one of "
            f"{', '.join(map(str, found)) or '(none)'}"
        )
    return int(name)


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
