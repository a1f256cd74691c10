"""Save and restore a pytree with Orbax. The newest checkpoints are kept, with digests of their data.

Orbax would restore a flipped byte without notice. The digest reveals such damage; `restore` then warns, and reads the
previous checkpoint.
"""

import errno
import hashlib
import os
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

# Errors that the user can repair: a full disk, a used-up quota, a file system that fails, is gone or is read-only.
DISK_FAULTS = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ESTALE, errno.EROFS)
LAST_STEP = 999_999_999  # `steps` takes a longer number for the name of another file


@contextmanager
def writer(folder: str | Path, keep: int = 2, overwrite: bool = False) -> Iterator[tuple]:
    """A context manager that gives two functions: `save(step, state)`, which writes in the background, and `wait()`.

    Args:
      folder: the folder of the checkpoints, which is made if it does not exist.
      keep: number of newest checkpoints that are kept.
      overwrite: whether `save` removes a checkpoint of the same step before it writes the new one.

    Raises:
      ValueError: if `check_folder` refuses the folder; from `save`, if the step is not in 0..999999999 or has a
        checkpoint already, or if two leaves of the state have the same name.
      OSError: if the disk is full or fails. The checkpoints that were saved before are still there.
    """
    check_folder(folder)
    import orbax.checkpoint as ocp  # slow to import

    Path(folder).mkdir(parents=True, exist_ok=True)
    policy = ocp.checkpoint_managers.LatestN(keep)
    options = ocp.CheckpointManagerOptions(preservation_policy=policy, **_alone())
    try:
        with ocp.CheckpointManager(Path(folder).absolute(), options=options) as manager:

            def save(step: int, state: PyTree) -> None:
                if not 0 <= step <= LAST_STEP:
                    raise ValueError(f"the step of a checkpoint must be in 0..{LAST_STEP}, got {step}")
                if step in manager.all_steps():
                    if not overwrite:
                        raise ValueError(
                            f"{folder} has a checkpoint of step {step} already; save another step, or open the folder "
                            f"with writer(folder, overwrite=True)"
                        )
                    manager.wait_until_finished()  # the checkpoint that is removed may still be in the making
                    manager.delete(step)
                leaves = _named_leaves(jax.tree.map(np.asarray, state))
                items = ocp.args.Composite(
                    state=ocp.args.StandardSave(leaves), digest=ocp.args.JsonSave(_digest(leaves))
                )
                manager.save(step, args=items, force=True)

            yield save, manager.wait_until_finished
    except (ValueError, OSError) as error:  # Orbax raises either of them for a fault of the disk
        reported = [number for number in DISK_FAULTS if os.strerror(number) in str(error)]
        if not reported:
            raise
        raise OSError(reported[0], os.strerror(reported[0]), str(folder)) from None


def check_folder(folder: str | Path) -> None:
    """Refuses a folder whose checkpoints Orbax would write but could not read, because it reads the path as a pattern.

    Raises:
      ValueError: if there is a [ or a backslash in the absolute path.
    """
    path = Path(folder).absolute()
    if set("[\\") & set(str(path)):
        raise ValueError(f"checkpoints in {path} could not be read again, because its path has a [ or a \\; rename it")


def steps(folder: str | Path) -> list[int]:
    """The steps of the checkpoints in `folder` whose writing was finished, oldest first."""
    path = Path(folder).absolute()
    names = [p.name for p in path.iterdir()] if path.is_dir() else []
    return sorted(int(name) for name in names if re.fullmatch("0|[1-9][0-9]{0,8}", name))


def drop_after(folder: str | Path, step: int) -> None:
    """Removes the checkpoints that are newer than `step`, before training repeats the steps after it."""
    for newer in steps(folder):
        if newer > step:
            shutil.rmtree(Path(folder) / str(newer))


def drop_before(folder: str | Path, step: int) -> None:
    """Removes the checkpoints that are older than `step`."""
    for older in steps(folder):
        if older < step:
            shutil.rmtree(Path(folder) / str(older))


def restore(folder: str | Path, like: PyTree, at: list[int] | None = None) -> tuple[int, PyTree] | None:
    """The newest undamaged checkpoint as (step, state); None if there is none.

    Args:
      folder: the folder of the checkpoints.
      like: a state, or its `jax.eval_shape`. The checkpoint must have its leaves, with these shapes and dtypes; other
        leaves of the checkpoint are left out.
      at: the steps to choose from; None for all.

    Raises:
      ValueError: if the checkpoint lacks a leaf, or has it with another shape or dtype.
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
            warnings.warn(f"checkpoint {path} cannot be read ({reason}) and is skipped", stacklevel=2)
            continue
        if items.digest != _digest(items.state):
            warnings.warn(f"checkpoint {path} is damaged and is skipped", stacklevel=2)
            continue
        return step, _as(like, items.state, path)
    return None


def _read_through(path: Path) -> None:
    """Reads everything once, so that an unreadable file raises here.

    If Orbax read the file first, each of its pending reads would print a traceback.
    """
    import tensorstore

    store = tensorstore.KvStore.open({"driver": "ocdbt", "base": f"file://{quote(str(path))}/"}).result()
    for key in store.list().result():
        store.read(key).result()


def _alone() -> dict[str, Any]:
    """The option that keeps Orbax from waiting for other processes."""
    import orbax.checkpoint as ocp

    if jax.process_count() == 1:
        return {}
    me = jax.process_index()
    alone = ocp.options.MultiprocessingOptions(primary_host=me, active_processes={me})
    return {"multiprocessing_options": alone, "create": False}


def _named_leaves(tree: PyTree) -> dict[str, Any]:
    """The leaves by their path. A checkpoint holds this dict, so that it depends on names and not on Python types."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    named: dict[str, Any] = {}
    for path, leaf in leaves:
        name = jax.tree_util.keystr(path, simple=True, separator=".")
        if name in named:
            raise ValueError(f"two leaves of the state are called {name}, and a checkpoint could hold only one of them")
        named[name] = leaf
    return named


def _as(like: PyTree, restored: dict[str, np.ndarray], path: Path) -> PyTree:
    """The restored leaves in the structure of `like`."""
    signature = lambda leaf: f"{leaf.dtype}{list(leaf.shape)}"
    array = lambda leaf: leaf if hasattr(leaf, "dtype") else np.asarray(leaf)  # a Python number has no dtype
    wanted = {name: array(leaf) for name, leaf in _named_leaves(like).items()}
    for name, leaf in wanted.items():
        present = signature(array(restored[name])) if name in restored else "missing"
        if present != signature(leaf):
            raise ValueError(
                f"checkpoint {path} belongs to another configuration: {name} is {present}, not {signature(leaf)}"
            )
    return jax.tree.unflatten(jax.tree.structure(like), [restored[name] for name in wanted])


def _digest(leaves: dict[str, np.ndarray]) -> dict[str, str]:
    """SHA-256 of each leaf's dtype, shape and bytes."""
    digest = lambda leaf: hashlib.sha256(f"{leaf.dtype}{leaf.shape}".encode() + leaf.tobytes()).hexdigest()
    return {name: digest(np.asarray(leaf)) for name, leaf in leaves.items()}
