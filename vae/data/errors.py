"""Parts of sentences that the error messages of this folder share."""


def reason(error: Exception) -> str:
    """The first line of an error without its full stop, so that it can stand inside a sentence."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")


def prepare_command(dataset: str, folder: object = "DIR") -> str:
    """The shell command that prepares a TFDS set."""
    return f"`bash scripts/prepare_data.sh {dataset} {folder}`"
