"""Evaluates finished runs again from their checkpoints, with as many samples as asked for.

    python -m experiments.evaluate --workdir=results/quickstart --eval_samples=5000
    python -m experiments.evaluate --workdir=DIR --checkpoint=best     # by the validation bound; or an epoch's number

Prints -log p(x), ELBO, rate and distortion of the test set and appends them, with the commit and versions of now, to
evaluations.jsonl in each run's folder, which `experiments.report` shows. What was evaluated before with as many samples
is read from there, unless --again. Runs that are not finished or diverged are left out, and named; where --checkpoint
is an epoch's number, those that have come so far are evaluated as well.
"""

from absl import flags

from experiments.common import cli

flags.DEFINE_string("workdir", None, "folder of a run or of a sweep, as experiments.train left it", required=True)
flags.DEFINE_string("data_dir", None, "folder of prepared TFDS data, or of frey_faces.npz")
flags.DEFINE_string("cache_dir", None, "folder of decoded data; by default beside the data, or the user's cache folder")
flags.DEFINE_string("checkpoint", "latest", "latest, best (by the validation bound) or the number of an epoch")
flags.DEFINE_integer("eval_samples", 5000, "K of the importance-weighted -log p(x)", lower_bound=1)
flags.DEFINE_bool("again", False, "also what was evaluated before with as many samples")
flags.DEFINE_bool("figures", False, "also draw the run's pictures again")
FLAGS = flags.FLAGS


def main() -> None:
    from experiments.evaluate import trained  # jax and what is built on it are not for --help

    trained.evaluate_all(FLAGS.workdir)


if __name__ == "__main__":
    cli.run(main)
