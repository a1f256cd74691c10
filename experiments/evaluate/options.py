"""The options of the command."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Options:
    """The values of the command's flags, whose help texts say what they are."""

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
