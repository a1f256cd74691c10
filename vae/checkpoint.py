"""Save and restore a pytree with Orbax: the newest ones and the best are kept, each with a digest of its contents.

Orbax itself would restore a flipped byte silently; the digest turns it into the checkpoint before, and a warning.
"""

import errno
import hashlib
import math
import re
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jax
import numpy as np

PyTree = Any


@contextmanager
def writer(folder: str | Path, keep: int = 2, bounds: dict[int, float] | None = None) -> Iterator[tuple]:
    """A context of two functions: `save(step, state)` writes in the background, `wait()` until it has.

    Args:
      folder: is made where it is not there.
      keep: the newest so many stay, and the best.
      bounds: by step, of those that may be the best; what the caller adds to it counts from the next `save` on.

    Raises:
      OSError: on a full disk; what was saved before is still there.
    """
    import orbax.checkpoint as ocp  # slow to import

    class Best(ocp.checkpoint_managers.PreservationPolicy):
        """Orbax's BestN reads bounds from the checkpoints, fails at a damaged one, and warns where there is none."""

        def should_preserve(self, checkpoints, *, context):
            del context
            found = [checkpoint.step for checkpoint in checkpoints]
            return [step == best(found, bounds or {}) for step in found]

    # `max_to_keep` beside a metric would throw away the newest.
    policies = [ocp.checkpoint_managers.LatestN(keep), Best()]
    policy = ocp.checkpoint_managers.AnyPreservationPolicy(policies)
    Path(folder).mkdir(parents=True, exist_ok=True)
    options = ocp.CheckpointManagerOptions(preservation_policy=policy, **_alone())
    try:
        with ocp.CheckpointManager(Path(folder).absolute(), options=options) as manager:

            def save(step: int, state: PyTree) -> None:
                leaves = _named_leaves(jax.tree.map(np.asarray, state))
                items = ocp.args.Composite(
                    state=ocp.args.StandardSave(leaves), digest=ocp.args.JsonSave(_digest(leaves))
                )
                manager.save(step, args=items, force=True)

            yield save, manager.wait_until_finished
    except (ValueError, OSError) as error:  # Orbax says it in its own words
        if "No space left" not in str(error):
            raise
        raise OSError(errno.ENOSPC, "No space left on device", str(folder)) from None


def steps(folder: str | Path) -> list[int]:
    """The steps of the checkpoints in `folder` whose writing was finished, oldest first."""
    path = Path(folder).absolute()
    names = [p.name for p in path.iterdir()] if path.is_dir() else []
    return sorted(int(name) for name in names if re.fullmatch("0|[1-9][0-9]{0,8}", name))


def best(steps: list[int], bounds: dict[int, float]) -> int | None:
    """The one of `steps` with the largest bound, the first of equals; None if none has a bound that is a number."""
    judged = [step for step in sorted(steps) if not math.isnan(bounds.get(step, math.nan))]
    return max(judged, key=bounds.get, default=None)


def drop_after(folder: str | Path, step: int) -> None:
    """Removes the checkpoints that are newer than `step`, before the steps after it are made again."""
    for newer in steps(folder):
        if newer > step:
            shutil.rmtree(Path(folder) / str(newer))


def restore(folder: str | Path, like: PyTree, at: list[int] | None = None) -> tuple[int, PyTree] | None:
    """The newest sound checkpoint as (step, state), or None where there is none.

    Args:
      folder: where `writer` wrote.
      like: a state or its `jax.eval_shape`; the checkpoint must have its structure, shapes and dtypes.
      at: the steps to choose from; all that are there by default.

    Raises:
      ValueError: if the checkpoints are of another structure.
    """
    import orbax.checkpoint as ocp

    arguments = ocp.args.Composite(state=ocp.args.StandardRestore(), digest=ocp.args.JsonRestore())
    for step in reversed(steps(folder) if at is None else sorted(at)):
        path = Path(folder).absolute() / str(step)
        try:
            _read_through(path / "state")
            with ocp.CheckpointManager(path.parent, options=ocp.CheckpointManagerOptions(**_alone())) as manager:
                items = manager.restore(step, args=arguments)
        except Exception as error:  # Orbax, tensorstore and the file system each raise their own kinds.
            reason = type(error).__name__
            warnings.warn(f"checkpoint {path} cannot be read ({reason}) and is passed over", stacklevel=2)
            continue
        if items.digest != _digest(items.state):
            warnings.warn(f"checkpoint {path} is damaged and is passed over", stacklevel=2)
            continue
        return step, _as(like, items.state, path)
    return None


def _read_through(path: Path) -> None:
    """Raises here what cannot be read: where Orbax meets it, reads that it left behind print a traceback each."""
    import tensorstore

    store = tensorstore.KvStore.open({"driver": "ocdbt", "base": f"file://{quote(str(path))}/"}).result()
    for key in store.list().result():
        store.read(key).result()


def _alone() -> dict[str, Any]:
    """Orbax's option that keeps it from waiting for other processes, where there are any."""
    import orbax.checkpoint as ocp

    if jax.process_count() == 1:
        return {}
    me = jax.process_index()
    alone = ocp.options.MultiprocessingOptions(primary_host=me, active_processes={me})
    return {"multiprocessing_options": alone, "create": False}


def _named_leaves(tree: PyTree) -> dict[str, Any]:
    """The leaves by their path: what is written, so that a checkpoint depends on names and not on Python types."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves}


def _as(like: PyTree, found: dict[str, np.ndarray], path: Path) -> PyTree:
    """The restored leaves in the structure of `like`."""
    signature = lambda leaves: {(name, tuple(leaf.shape), str(leaf.dtype)) for name, leaf in leaves.items()}
    if odd := sorted(signature(found) ^ signature(_named_leaves(like))):
        name, shape, dtype = odd[0]
        raise ValueError(
            f"checkpoint {path} is of another configuration: {name} {dtype}{list(shape)} has no counterpart"
        )
    return jax.tree.unflatten(jax.tree.structure(like), [found[name] for name in _named_leaves(like)])


def _digest(leaves: dict[str, np.ndarray]) -> dict[str, str]:
    """SHA-256 of each leaf's dtype, shape and bytes."""
    digest = lambda leaf: hashlib.sha256(f"{leaf.dtype}{leaf.shape}".encode() + leaf.tobytes()).hexdigest()
    return {name: digest(np.asarray(leaf)) for name, leaf in leaves.items()}
