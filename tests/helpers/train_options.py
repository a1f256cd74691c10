"""The options of training, as the command line gives them."""

from absl import flags

from experiments.train import flags as train_flags
from experiments.train.flags import Options


def make_options(*arguments: str) -> Options:
    """The options of a command with these flags, for example `make_options("--keep=3")`."""
    values = flags.FlagValues()
    train_flags.define_flags(values)
    values(["", *arguments])
    return train_flags.from_flags(values)
