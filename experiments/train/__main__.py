"""Trains a VAE, or a sweep of them, and leaves a workdir that explains itself.

    python -m experiments.train                                            # digits, one run
    python -m experiments.train --seed=0,1,2 --learning_rate=1e-3,3e-4     # six runs in one compiled program
    python -m experiments.train --dataset=mnist --data_dir=DIR --hidden=500 --latent_dim=20 --batch_size=128 --epochs=10
    python -m experiments.train --estimator=reparam,stl --objective=elbo --launcher=slurm  # two programs, a job each

Every setting is a flag (--helpfull lists them), and a comma-separated list on any of them is swept; several lists give
their product. The same command again finishes what was cut off and skips what is done.
"""

from pathlib import Path

from absl import flags

from experiments.common import cli, settings
from experiments.common.settings import Settings
from experiments.train import multihost

# Flags that memory grows with, the likeliest first.
HUNGRY = ("num_samples", "batch_size", "hidden")

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
flags.DEFINE_enum(
    "streaming",
    "auto",
    ["auto", "on", "off"],
    "leave the training images on the disk or in the host's memory and read them while training; auto: where they would"
    " take more than a quarter of the device's or the host's memory",
)
flags.DEFINE_enum(
    "sweep_mode",
    "auto",
    ["auto", "vmap", "map"],
    "runs of one program: side by side (vmap), or one by one"
    " (map); auto: vmap below 200,000 parameters or on an accelerator, else map",
)
flags.DEFINE_bool("figures", True, "draw the pictures of every run; experiments.evaluate --figures draws them later")
flags.DEFINE_bool("tensorboard", False, "write TensorBoard event files as well")
flags.DEFINE_string(
    "profile_steps",
    None,
    "a:b, of steps from 1 on: trace the epochs that hold them with jax.profiler, into profile/ of the run's folder (the"
    " first one's, where several share a program)",
)
flags.DEFINE_enum(
    "launcher", "local", ["local", "slurm"], "train here, or submit each program as a job of a SLURM array"
)
flags.DEFINE_string("slurm_partition", None, "of the jobs; by default the cluster's own")
flags.DEFINE_string("slurm_account", None, "that the jobs are charged to, on clusters that ask for one")
flags.DEFINE_integer(
    "slurm_time",
    1440,
    "minutes of a job; it then saves, is requeued and goes on. Where an epoch takes more than 90 seconds it goes on"
    " from its last checkpoint, so let --checkpoint_every be well within a job",
    lower_bound=5,
)
flags.DEFINE_integer("slurm_cpus", 4, "cores of a job", lower_bound=1)
flags.DEFINE_integer("slurm_gpus", 0, "GPUs of a job", lower_bound=0)
flags.DEFINE_float("slurm_mem_gb", 8.0, "memory of a job", lower_bound=0.1)
flags.DEFINE_integer("program", 0, "of a sweep, from 1 on: train this one alone, as its jobs do", lower_bound=0)
flags.DEFINE_bool(
    "multihost",
    None,
    "train together with the other processes that run this command; by default where SLURM, a TPU pod or Open MPI says"
    " that there are some. Elsewhere set JAX_COORDINATOR_ADDRESS=HOST:PORT, JAX_NUM_PROCESSES and JAX_PROCESS_ID",
)
FLAGS = flags.FLAGS


def main() -> None:
    with cli.one_sentence():
        runs = settings.from_flags(FLAGS)
        together = multihost.is_one_of_several() if FLAGS.multihost is None else FLAGS.multihost
        if together and FLAGS.launcher == "slurm":
            raise ValueError(
                "--launcher=slurm submits jobs of one process each, and so once: start it alone, without srun or"
                " --multihost; or leave it out, and these processes train together"
            )
        if FLAGS.program and FLAGS.launcher == "slurm":
            raise ValueError(
                "--program is one job's; --launcher=slurm submits all that are not finished, so leave it out"
            )
        of_jobs = [name for name in FLAGS if name.startswith("slurm_") and FLAGS[name].present]
        if of_jobs and FLAGS.launcher != "slurm" and not FLAGS.program:  # a job has the flags of its submission
            raise ValueError(f"--{of_jobs[0]} is of jobs; leave it out or take --launcher=slurm")
    if together:
        with cli.one_sentence():
            multihost.run(lambda: _train(runs))
    else:
        _train(runs)


def _train(runs: list[Settings]) -> None:
    from experiments.train import sweep as training  # jax and what is built on it are not for --help

    path = Path(FLAGS.workdir or _default_workdir(runs))
    if FLAGS.launcher == "slurm":
        training.submit_all(runs, path)
    else:
        training.train_all(runs, path)


def _default_workdir(runs: list[Settings]) -> Path:
    """A name that the same command finds again."""
    name = "".join(c if c.isalnum() else "-" for c in Path(runs[0].dataset).stem)
    digest = runs[0].digest() if len(runs) == 1 else settings.digest_of(runs)
    return Path("results") / f"{name}-{digest}"


if __name__ == "__main__":
    cli.run(main, resumes=True, hungry=HUNGRY)
