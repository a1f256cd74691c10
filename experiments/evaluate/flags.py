"""The flags of `python -m experiments.evaluate`."""

import dataclasses

from absl import flags

from experiments.common import run_selection
from vae import ais


@dataclasses.dataclass(frozen=True)
class Options:
    """The values of the flags that `define_flags` defines. The help texts of the flags say what the values mean."""

    workdir: str
    run: str | None
    data_dir: str | None
    cache_dir: str | None
    checkpoint: str
    eval_samples: int
    ais_steps: int
    ais_chains: int
    ais_leapfrog: int
    ais_images: int
    ais_start: str
    again: bool
    figures: bool


def define_flags(values: flags.FlagValues) -> None:
    """Defines one flag for each field of `Options`."""
    string = lambda name, default, help: flags.DEFINE_string(name, default, help, flag_values=values)
    string("workdir", None, "Folder of a run or of a sweep, as experiments.train left it.")
    string("run", None, run_selection.HELP)
    string(
        "data_dir",
        None,
        "Folder of prepared TFDS data or of frey_faces.npz; by default the folder that the training read, if it"
        " still exists.",
    )
    string("cache_dir", None, "Folder of decoded data; by default beside the data or in the user's cache folder.")
    string("checkpoint", "latest", "Checkpoint: latest, best (by the validation bound) or the number of an epoch.")
    flags.DEFINE_integer(
        "eval_samples",
        5000,
        "Number K of samples of z for each image in the importance-weighted -log p(x).",
        lower_bound=1,
        flag_values=values,
    )
    integer = lambda name, default, help, least: flags.DEFINE_integer(
        name, default, help, lower_bound=least, flag_values=values
    )
    integer("ais_steps", 0, "Number of transitions of annealed importance sampling; 0 for none.", 0)
    integer("ais_chains", 16, "Number of annealed chains of each image.", 1)
    integer("ais_leapfrog", 10, "Number of leapfrog steps of a transition.", 1)
    integer("ais_images", 100, "Number of test images to anneal, and of images that are simulated from the model.", 1)
    start = "Distribution at which the annealed chains start: the prior, or q(z|x)."
    flags.DEFINE_enum("ais_start", "prior", ais.STARTS, start, flag_values=values)
    again = "Whether to evaluate again what was evaluated before with as many samples."
    flags.DEFINE_bool("again", False, again, flag_values=values)
    flags.DEFINE_bool("figures", False, "Whether to draw the pictures of each run again as well.", flag_values=values)


def from_flags(values: flags.FlagValues) -> Options:
    """The options on the command line.

    Raises:
      ValueError: If flags contradict each other.
    """
    options = Options(**{field.name: values[field.name].value for field in dataclasses.fields(Options)})
    if not options.workdir:
        raise ValueError("--workdir is missing; give --workdir=FOLDER, a run or a sweep of experiments.train")
    for name in ("ais_chains", "ais_leapfrog", "ais_images", "ais_start"):
        if values[name].present and not options.ais_steps:
            raise ValueError(f"--{name} needs --ais_steps, the number of transitions")
    return options
