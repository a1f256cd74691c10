"""Trains a VAE, or a sweep of them, and leaves a workdir that explains itself.

    python -m experiments.train                                            # digits, one run
    python -m experiments.train --seed=0,1,2 --learning_rate=1e-3,3e-4     # six runs in one compiled program
    python -m experiments.train --dataset=mnist --data_dir=DIR --hidden=500 --latent_dim=20 --batch_size=128 --epochs=10

Every setting is a flag, and a comma-separated list on any of them is swept; several lists give their product. The same
command again finishes what was cut off and skips what is done.
"""

from pathlib import Path

from absl import flags

from experiments import cli, settings
from experiments.settings import Settings

settings.define_flags()
flags.DEFINE_string("workdir", None, "folder of the results; by default results/ and a name made from the settings")
flags.DEFINE_string("data_dir", None, "folder of prepared TFDS data, or of frey_faces.npz")
flags.DEFINE_string("cache_dir", None, "folder of decoded data; by default beside the data, or the user's cache folder")
flags.DEFINE_integer("eval_every", 0, "epochs between evaluations; 0 for about 20 in a run", lower_bound=0)
flags.DEFINE_integer("checkpoint_every", 0, "epochs between checkpoints; 0 for one with each evaluation", lower_bound=0)
flags.DEFINE_integer(
    "keep",
    2,
    "newest checkpoints that stay, and with --validation_size the best of those that were evaluated",
    lower_bound=2,  # one may be damaged, and the runs of a sweep need one in common
)
flags.DEFINE_enum("sweep_mode", "auto", ["auto", "vmap", "map"], "runs of one program: side by side, or one by one")
flags.DEFINE_bool("figures", True, "draw the pictures of every run; experiments.evaluate --figures draws them later")
flags.DEFINE_bool("tensorboard", False, "write TensorBoard event files as well")
flags.DEFINE_string(
    "profile_steps",
    None,
    "a:b, of steps from 1 on: trace the epochs that hold them with jax.profiler, into profile/ of the run's folder (the"
    " first one's, where several share a program)",
)
FLAGS = flags.FLAGS


def main() -> None:
    with cli.one_sentence():
        runs = settings.from_flags(FLAGS)
    from experiments import training  # jax and what is built on it are not for --help

    training.train_all(runs, Path(FLAGS.workdir or _default_workdir(runs)))


def _default_workdir(runs: list[Settings]) -> Path:
    """A name that the same command finds again."""
    name = "".join(c if c.isalnum() else "-" for c in Path(runs[0].dataset).stem)
    digest = runs[0].digest() if len(runs) == 1 else settings.digest_of(runs)
    return Path("results") / f"{name}-{digest}"


if __name__ == "__main__":
    cli.run(main)
