"""The flags of `python -m experiments.train` that are not settings: folders, devices, SLURM jobs, the budget.

They do not change how a run trains, except that --budget chooses the setting num_samples. But --eval_every chooses at
which epochs a run is evaluated, and so which of its states can be the best. The settings are in
experiments/common/settings.py.
"""

import dataclasses

from absl import flags

from experiments.common import comparison, results, setting_flags
from experiments.common.budget import Budget, parse_budget
from experiments.train import hook
from experiments.train.hook import Function


@dataclasses.dataclass(frozen=True)
class Options:
    """The values of the flags that `define_flags` defines. The help texts of the flags say what the values mean."""

    workdir: str | None
    data_dir: str | None
    cache_dir: str | None
    eval_every: int
    checkpoint_minutes: float
    checkpoint_every: int
    keep: int
    streaming: str
    sweep_mode: str
    figures: str
    budget: Budget | None
    compare: str | None
    columns: list[str] | None
    tensorboard: bool
    measure_gradient: int
    measure_estimators: tuple[str, ...]
    measure_draws: int
    on_evaluation: Function | None
    profile_steps: str | None
    program: int
    multihost: bool | None
    launcher: str
    slurm_partition: str | None
    slurm_account: str | None
    slurm_time: int
    slurm_cpus: int
    slurm_gpus: int
    slurm_mem_gb: float


def define_flags(values: flags.FlagValues) -> None:
    """Defines one flag for each field of `Options`."""
    string = lambda name, help: flags.DEFINE_string(name, None, help, flag_values=values)
    integer = lambda name, default, help, lower: flags.DEFINE_integer(
        name, default, help, lower_bound=lower, flag_values=values
    )
    enum = lambda name, choices, help: flags.DEFINE_enum(name, choices[0], choices, help, flag_values=values)

    # Files
    string("workdir", "Folder of the results; by default results/NAME, with a name made from the settings.")
    string("data_dir", "Folder of prepared TFDS data or of frey_faces.npz.")
    string("cache_dir", "Folder of decoded data; by default beside the data or in the user's cache folder.")
    integer("eval_every", 0, "Number of epochs between evaluations; 0 for about 20 evaluations in a run.", 0)
    flags.DEFINE_float(
        "checkpoint_minutes",
        5.0,
        "Minutes between checkpoints, which are written after the epoch that is being trained. The last state is always"
        " saved, also when the command is asked to stop.",
        lower_bound=0,
        flag_values=values,
    )
    checkpoint_every = (
        "Number of epochs between additional checkpoints; 0 for none. When the training is finished, the newest --keep"
        " checkpoints stay."
    )
    integer("checkpoint_every", 0, checkpoint_every, 0)
    # At least two checkpoints, because one may be damaged.
    keep = "Number of newest checkpoints to keep. With --validation_size, every checkpoint also holds the best states."
    integer("keep", 2, keep, 2)
    enum(
        "figures",
        ["sweep", "all", "none"],
        "Pictures to draw: those that compare the runs and those of the best run of each setting (sweep), also those of"
        " every other run (all), or no pictures (none). `experiments.evaluate --figures` draws a run later.",
    )
    string(
        "budget",
        "Largest cost of a training step, as evaluations:N (of f for one image) or flops:N. Every estimator gets the"
        " largest number of samples within it.",
    )
    string("compare", comparison.HELP)
    flags.DEFINE_list(
        "columns",
        None,
        "Columns of results.md and results.tex: settings, runs, diverged, validation_elbo_nats and figures of"
        " results.csv. By default the settings that differ, and all figures.",
        flag_values=values,
    )
    flags.DEFINE_bool("tensorboard", False, "Whether to write TensorBoard event files as well.", flag_values=values)
    measure_gradient = (
        "Number of evaluations between measurements of the gradient's variance, SNR and bias; 1 for one at every"
        " evaluation, 0 for none. The last evaluation is always measured. A measurement draws --measure_draws gradients"
        " of the run's own estimator, and as many of each other estimator and of the reference."
    )
    integer("measure_gradient", 0, measure_gradient, 0)
    measure_estimators = (
        "Estimators to measure beside the run's own. An estimator with parameters or a state is first trained for"
        " --measure_draws steps, which cost as many gradients."
    )
    setting_flags.define_list("measure_estimators", "estimator", measure_estimators, values, __name__)
    integer("measure_draws", 100, "Number of gradients of each estimator in a measurement, a multiple of 10.", 20)
    string(
        "on_evaluation",
        "Function of your own, as module:function. It is called after each evaluation, and with each result, with the"
        " row and the state of the run.",
    )
    string(
        "profile_steps",
        "Steps to trace with jax.profiler, as FIRST:LAST, counted from 1. The trace covers the epochs that contain"
        " these steps, and is written into profile/ in the folder of the program.",
    )

    # Memory and devices
    enum(
        "streaming",
        ["auto", "on", "off"],
        "Whether the training images stay on the disk or in the host's memory and are read while training. auto streams"
        " images that would fill more than a quarter of the device's or the host's memory.",
    )
    enum(
        "sweep_mode",
        ["auto", "vmap", "map"],
        "Way in which a device computes the runs of a program: side by side (vmap) or one after the other (map). auto"
        " takes vmap on accelerators and for networks with fewer than 200,000 parameters.",
    )
    flags.DEFINE_bool(
        "multihost",
        None,
        "Whether to train together with the other processes that run this command. This is the default where SLURM, a"
        " TPU pod or Open MPI reports several processes. Elsewhere, also set JAX_COORDINATOR_ADDRESS=HOST:PORT,"
        " JAX_NUM_PROCESSES and JAX_PROCESS_ID.",
        flag_values=values,
    )

    # Jobs
    enum(
        "launcher",
        ["local", "slurm"],
        "Place of the training: this process (local), or a SLURM array with a job for each program (slurm).",
    )
    integer("program", 0, "Number of the program to train, counted from 1; 0 trains all programs of the sweep.", 0)
    string("slurm_partition", "Partition of the jobs; by default the cluster's default.")
    string("slurm_account", "Account that the jobs are charged to, on clusters that require an account.")
    integer(
        "slurm_time",
        1440,
        "Time limit of a job in minutes. A job whose time is over saves, is requeued and continues. If the epoch takes"
        " more than 90 seconds to end, the job continues from its last checkpoint, so write several checkpoints in a"
        " job (--checkpoint_minutes).",
        5,
    )
    integer("slurm_cpus", 4, "Number of cores of a job.", 1)
    integer("slurm_gpus", 0, "Number of GPUs of a job.", 0)
    flags.DEFINE_float("slurm_mem_gb", 8.0, "Memory of a job in gigabytes.", lower_bound=0.1, flag_values=values)


def from_flags(values: flags.FlagValues) -> Options:
    """The options on the command line.

    Raises:
      ValueError: If flags contradict each other.
    """
    given = {field.name: values[field.name].value for field in dataclasses.fields(Options)}
    if given["on_evaluation"]:
        given["on_evaluation"] = hook.load(given["on_evaluation"])
    options = Options(**given | {"budget": parse_budget(given["budget"])})
    if options.program and options.launcher == "slurm":
        raise ValueError("--program trains one program, but --launcher=slurm submits all of them; leave out one flag")
    for name in ("measure_estimators", "measure_draws"):
        if values[name].present and not options.measure_gradient:
            raise ValueError(f"--{name} needs --measure_gradient=1, a measurement at every evaluation")
    if options.budget and options.budget.kind == "flops" and options.launcher == "slurm":
        raise ValueError(
            "--budget=flops:N counts FLOP on this machine, and the devices of the jobs may count others; give"
            " --num_samples or --budget=evaluations:N with --launcher=slurm"
        )
    results.check_columns(options.columns or [])
    slurm = [name for name in values if name.startswith("slurm_") and values[name].present]
    is_job = bool(options.program)  # a job has the flags of its submission
    if slurm and options.launcher != "slurm" and not is_job:
        raise ValueError(f"--{slurm[0]} needs --launcher=slurm; leave one out or add the other")
    return options
