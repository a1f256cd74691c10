"""Image sets of TFDS from their prepared files, without tensorflow and without a network.

Each split is decoded once (MNIST takes ten seconds) and cached as `<name>-<fingerprint>-<split>.npy`. A training split
that is too large for the memory stays `OnDisk`.
"""

import difflib
import hashlib
import json
import math
import os
import re
from collections.abc import Sequence
from pathlib import Path

from vae.data import cache
from vae.data.errors import prepare_command, reason
from vae.data.on_disk import OnDisk, has_labels, read_labels
from vae.data.splits import SPLITS, Splits


def load(
    dataset: str,
    data_dir: str | os.PathLike | None,
    cache_dir: str | os.PathLike | None,
    max_bytes: float = math.inf,
    other_names: Sequence[str] = (),
) -> Splits:
    """The splits train, validation and test that the set has, uint8 [N, H, W, C], and their labels, if it has any.

    If the training images stay on disk, the labels are not read.

    Args:
      dataset: TFDS's name, `name[/config][:version]`.
      data_dir: folder of the prepared sets, or the folder above `tensorflow_datasets`.
      cache_dir: folder of the decoded images; see `vae.data.load`.
      max_bytes: size of the largest training split that is read into memory.
      other_names: data sets that are not from TFDS; the error suggests one if `dataset` looks like its misspelling.
    """
    folder = _prepared_folder(dataset, data_dir, other_names)
    names = _split_names(dataset, folder)
    fingerprint = _fingerprint(folder)
    stem = f"{re.sub('[/:]', '-', dataset)}-{fingerprint}"
    cache_folders = [Path(cache_dir).expanduser()] if cache_dir else [folder, cache.user_folder()]
    splits = {}
    for split in (split for split in SPLITS if split in names):
        paths = [parent / f"{stem}-{split}.npy" for parent in cache_folders]
        if split == "train" and max_bytes < math.inf and (images := OnDisk(dataset, folder, split)).nbytes > max_bytes:
            splits[split] = images
        else:
            splits[split] = cache.cached(paths, lambda split=split: OnDisk(dataset, folder, split).decoded())
    labels = {}
    if not isinstance(splits["train"], OnDisk) and has_labels(folder):
        for split in splits:
            paths = [parent / f"{stem}-{split}-labels.npy" for parent in cache_folders]
            labels[split] = cache.cached(paths, lambda split=split: read_labels(dataset, folder, split))
    return Splits(**splits, files=fingerprint, labels=labels or None)


def _prepared_folder(dataset: str, data_dir: str | os.PathLike | None, other_names: Sequence[str]) -> Path:
    """DIR/name/version or DIR/name/config/version: the newest version, unless the name asks for another."""
    stem, _, version = dataset.partition(":")
    folders = []
    if data_dir and re.fullmatch(r"\w+(/\w[\w.+-]*)?(:\d+\.\d+\.\d+)?", dataset):
        roots = [Path(data_dir).expanduser(), Path(data_dir).expanduser() / "tensorflow_datasets"]
        folders = [file.parent for root in roots for file in (root / stem).glob("**/dataset_info.json")]
        folders = [folder for folder in folders if re.fullmatch(r"\d+\.\d+\.\d+", folder.name)]
        folders = [folder for folder in folders if version in ("", folder.name)]
    if not folders:
        raise _not_prepared(dataset, stem, data_dir, other_names)
    configs = sorted({folder.parent.name for folder in folders})
    if len(configs) > 1:
        choices = " or ".join(f"dataset={stem}/{config}" for config in configs)
        raise ValueError(f"dataset={dataset} is prepared in several configurations; choose {choices}")
    return max(folders, key=lambda folder: [int(number) for number in folder.name.split(".")])


def _not_prepared(dataset: str, stem: str, data_dir: str | os.PathLike | None, other_names: Sequence[str]) -> Exception:
    """The error that says why no prepared files were found, and what to do."""
    import tensorflow_datasets as tfds

    known = tfds.list_builders(with_community_datasets=False)
    if stem.split("/")[0] not in known:
        similar = difflib.get_close_matches(stem.lower(), [*other_names, *known])
        names = f"did you mean {' or '.join(similar)}?" if similar else f"choose one of {', '.join(other_names)}, mnist"
        return ValueError(f"dataset={dataset} is unknown; {names}")
    if stem == "binarized_mnist":
        return FileNotFoundError(
            f"dataset={dataset} is not prepared in data_dir={data_dir or ''}, and its address on the network is dead; "
            "choose dataset=mnist with binarization=static"
        )
    if not data_dir:
        return ValueError(f"dataset={dataset} needs data_dir=DIR; prepare the set there by {prepare_command(dataset)}")
    return FileNotFoundError(
        f"dataset={dataset} is not prepared in data_dir={data_dir}; prepare it by {prepare_command(dataset, data_dir)}"
    )


def _split_names(dataset: str, folder: Path) -> list[str]:
    """The names of all splits of the set.

    Raises:
      ValueError: if the set cannot be read, or has no training images.
    """
    file = folder / "dataset_info.json"
    try:
        info = json.loads(file.read_text(encoding="utf-8"))
        formats = [info.get("fileFormat", "tfrecord"), *info.get("alternativeFileFormats", [])]
        names = [split["name"] for split in info["splits"]]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"dataset={dataset}: {file} is damaged ({reason(error)}); prepare the set in another folder by "
            f"{prepare_command(dataset)} and give data_dir=DIR"
        ) from error
    if "array_record" not in formats:
        raise ValueError(
            f"dataset={dataset}: {folder} was prepared as {formats[0]}, which only tensorflow reads; prepare it as "
            f"array_record in another folder by {prepare_command(dataset)} and give data_dir=DIR"
        )
    if "train" not in names:
        raise ValueError(f"dataset={dataset} has no train split (only {', '.join(names)}); choose another set")
    return names


def _fingerprint(folder: Path) -> str:
    """A digest of the description and of the files' names and sizes, so a set that is prepared anew is decoded anew."""
    digest = hashlib.sha256()
    for file in sorted([*folder.glob("*.json"), *folder.glob("*.array_record*")]):
        digest.update(f"{file.name} {file.stat().st_size}\n".encode())
        if file.suffix == ".json":
            digest.update(file.read_bytes())
    return digest.hexdigest()[:12]
