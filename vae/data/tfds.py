"""Image sets of TFDS from their prepared files, without tensorflow and without a network.

`load_prepared` decodes each split once (MNIST: ten seconds) and keeps it as `<name>-<fingerprint>-<split>.npy`: an
ordinary .npy with its sha256 after the last byte, so that a damaged one is noticed, said and built again. A training
split that is too large to be kept is `OnDisk` and decoded where it is read.
"""

import difflib
import hashlib
import io
import json
import logging
import math
import os
import re
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from tqdm import tqdm

SPLITS = ("train", "validation", "test")
OTHER_NAMES = ("digits", "frey_faces", "npz:PATH")  # what datasets.load knows besides TFDS
DECODE_CHUNK = 1000  # images a call

logger = logging.getLogger(__name__)


class OnDisk:
    """Images of one split, uint8 [N, H, W, C], or those of them at `indices`: what is read is decoded, and not kept."""

    dtype = np.dtype(np.uint8)

    def __init__(self, name: str, folder: Path, split: str, indices: np.ndarray | None = None):
        self.name, self.folder, self.split = name, folder, split
        with _one_sentence(name, folder, split):
            self._source, shape = _open(folder, split)
        if shape is None:
            raise _not_images(name)
        self._indices = np.arange(len(self._source)) if indices is None else indices
        self.shape = (len(self._indices), *shape)

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def nbytes(self) -> int:
        """What the decoded images would take."""
        return math.prod(self.shape)

    def __getitem__(self, indices: np.ndarray | slice) -> np.ndarray:
        with _one_sentence(self.name, self.folder, self.split):
            records = self._source.__getitems__(self._indices[indices].tolist())
            images = np.zeros((len(records), *self.shape[1:]), np.uint8)
            for image, record in zip(images, records, strict=True):
                image[:] = record["image"]
            return images

    def subset(self, indices: np.ndarray) -> "OnDisk":
        """The images at `indices`, which are not read."""
        return OnDisk(self.name, self.folder, self.split, self._indices[indices])

    def decoded(self) -> np.ndarray:
        """All of them in memory."""
        images = np.zeros(self.shape, np.uint8)
        with tqdm(total=len(self), desc=f"decoding {self.name} {self.split}", unit=" images", disable=None) as progress:
            for start in range(0, len(self), DECODE_CHUNK):
                read = self[start : start + DECODE_CHUNK]
                images[start : start + len(read)] = read
                progress.update(len(read))
        return images


def load_prepared(
    name: str, data_dir: str | os.PathLike | None, cache_dir: str | os.PathLike | None, max_bytes: float = math.inf
) -> dict[str, np.ndarray | OnDisk]:
    """Those of train, validation and test that the set has, uint8 [N, H, W, C].

    `name` is TFDS's, `name[/config][:version]`. It is looked for in `data_dir` and in
    its subfolder tensorflow_datasets. A train split of more than `max_bytes` stays `OnDisk`.
    """
    folder = _prepared_folder(name, data_dir)
    names = _split_names(name, folder)
    stem = f"{re.sub('[/:]', '-', name)}-{_fingerprint(folder)}"
    caches = [Path(cache_dir).expanduser()] if cache_dir else [folder, _user_cache()]
    found = {}
    for split in (split for split in SPLITS if split in names):
        paths = [cache / f"{stem}-{split}.npy" for cache in caches]
        if split == "train" and max_bytes < math.inf and (images := OnDisk(name, folder, split)).nbytes > max_bytes:
            found[split] = images
        else:
            found[split] = _cached(paths, lambda split=split: OnDisk(name, folder, split).decoded())
    return found


def fingerprint(name: str, data_dir: str | os.PathLike | None, split: str, indices: np.ndarray) -> bytes:
    """Tells the images at `indices` of a split from others, by the prepared files and not by what they hold."""
    which = hashlib.sha256(indices.tobytes()).hexdigest()
    return f"{_fingerprint(_prepared_folder(name, data_dir))} {split} {which}".encode()


def reason(error: Exception) -> str:
    """The first line of an error, without its full stop, to stand inside a sentence."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")


# --- prepared files


def _prepared_folder(name: str, data_dir: str | os.PathLike | None) -> Path:
    """DIR/name/version or DIR/name/config/version: the newest version, if none is asked for."""
    stem, _, version = name.partition(":")
    found = []
    if data_dir and re.fullmatch(r"\w+(/\w[\w.+-]*)?(:\d+\.\d+\.\d+)?", name):
        roots = [Path(data_dir).expanduser(), Path(data_dir).expanduser() / "tensorflow_datasets"]
        found = [file.parent for root in roots for file in (root / stem).glob("**/dataset_info.json")]
        found = [folder for folder in found if re.fullmatch(r"\d+\.\d+\.\d+", folder.name)]
        found = [folder for folder in found if version in ("", folder.name)]
    if not found:
        raise _not_prepared(name, stem, data_dir)
    configs = sorted({folder.parent.name for folder in found})
    if len(configs) > 1:
        choices = " or ".join(f"--dataset={stem}/{config}" for config in configs)
        raise ValueError(f"--dataset={name} is prepared in several configurations, so choose {choices}")
    return max(found, key=lambda folder: [int(number) for number in folder.name.split(".")])


def _not_prepared(name: str, stem: str, data_dir: str | os.PathLike | None) -> Exception:
    import tensorflow_datasets as tfds

    known = tfds.list_builders(with_community_datasets=False)
    if stem.split("/")[0] not in known:
        near = difflib.get_close_matches(stem.lower(), [*OTHER_NAMES, *known]) or [*OTHER_NAMES, "mnist"]
        return ValueError(f"--dataset={name} is not known, so take another (near it: {', '.join(near)})")
    if stem == "binarized_mnist":
        return FileNotFoundError(
            f"--dataset={name} is not prepared in --data_dir={data_dir or ''} and its address on the network is dead, "
            "so take --dataset=mnist --binarization=static"
        )
    if not data_dir:
        return ValueError(f"--dataset={name} needs --data_dir=DIR, so prepare it there by {_command(name)}")
    return FileNotFoundError(
        f"--dataset={name} is not prepared in --data_dir={data_dir}, so prepare it by {_command(name, data_dir)}"
    )


def _command(name: str, folder: str | os.PathLike = "DIR") -> str:
    return f"`bash scripts/prepare_data.sh {name} {folder}`"


def _split_names(name: str, folder: Path) -> list[str]:
    """All splits of the set, if it is one that can be read."""
    file = folder / "dataset_info.json"
    try:
        info = json.loads(file.read_text())
        formats = [info.get("fileFormat", "tfrecord"), *info.get("alternativeFileFormats", [])]
        names = [split["name"] for split in info["splits"]]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"--dataset={name}: {file} is damaged ({reason(error)}), so prepare the set in another folder by "
            f"{_command(name)} and give --data_dir=DIR"
        ) from error
    if "array_record" not in formats:
        raise ValueError(
            f"--dataset={name}: {folder} was prepared as {formats[0]}, which only tensorflow reads, so prepare it as "
            f"array_record in another folder by {_command(name)} and give --data_dir=DIR"
        )
    if "train" not in names:
        raise ValueError(f"--dataset={name} has no train split (only {', '.join(names)}), so take another set")
    return names


def _fingerprint(folder: Path) -> str:
    """Of the description and the files' names and sizes: what is prepared anew is decoded anew."""
    digest = hashlib.sha256()
    for file in sorted([*folder.glob("*.json"), *folder.glob("*.array_record*")]):
        digest.update(f"{file.name} {file.stat().st_size}\n".encode())
        if file.suffix == ".json":
            digest.update(file.read_bytes())
    return digest.hexdigest()[:12]


@contextmanager
def _one_sentence(name: str, folder: Path, split: str) -> Iterator[None]:
    """Whatever TFDS, array_record and Pillow raise on a damaged file, which nobody lists, as an OSError of no errno;
    what the system itself says (a mount that is gone, no memory left) stays as it is."""
    try:
        yield
    except Exception as error:
        if isinstance(error, MemoryError) or getattr(error, "errno", None):
            raise
        raise OSError(
            f"--dataset={name}: the {split} images in {folder} cannot be read ({reason(error)}), so mend the files, or "
            f"prepare the set in another folder by {_command(name)} and give --data_dir=DIR"
        ) from error


def _open(folder: Path, split: str):
    """TFDS's data source of one split, and the shape of its images, None where they have none that is fixed."""
    import tensorflow_datasets as tfds

    _check_features(json.loads((folder / "features.json").read_text()))
    builder = tfds.builder_from_directory(folder, file_format="array_record")
    return builder.as_data_source(split=split), _image_shape(builder.info.features)


def _check_features(described: object) -> None:
    """TFDS imports whatever module features.json names a class of, so none but its own may stand there."""
    if isinstance(described, str) and described.lstrip().startswith(("{", "[")):  # TFDS reads JSON inside of JSON
        described = json.loads(described)
    named = described if isinstance(described, dict) else {}
    for key in ("pythonClassName", "python_class_name", "type"):
        name = named.get(key, "")
        if isinstance(name, str) and "." in name and not name.startswith("tensorflow_datasets."):
            raise ValueError(f"features.json names a class that is not of TFDS, {name!r}")
    for piece in named.values() if named else described if isinstance(described, list) else ():
        _check_features(piece)


def _not_images(name: str) -> ValueError:
    return ValueError(
        f"--dataset={name} has no uint8 images of one fixed shape under the key image, so take another set, or save "
        "its images as arrays and load them by --dataset=npz:PATH"
    )


def _image_shape(features: object) -> tuple[int, int, int] | None:
    """[H, W, C] of TFDS's feature `image`; None if there is none, or if it varies, or if it is not uint8."""
    import tensorflow_datasets as tfds

    image = features["image"] if isinstance(features, tfds.features.FeaturesDict) and "image" in features else None
    fixed = isinstance(image, tfds.features.Image) and image.np_dtype == np.uint8 and None not in image.shape
    return image.shape if fixed else None


# --- the cache of decoded images


def _cached(paths: list[Path], build: Callable[[], np.ndarray]) -> np.ndarray:
    """The array in the first of `paths` that has it; otherwise built, and kept in the first that can be written."""
    for path in paths:
        try:
            return _read_cache(path)
        except FileNotFoundError:
            continue
        except (OSError, ValueError) as error:
            logger.warning("the cache %s cannot be used (%s), so the images are decoded again", path, reason(error))
    array = build()
    for path in paths:
        try:
            _write_cache(path, array)
            return array
        except OSError:
            continue
    logger.warning("the cache %s cannot be written, so the next run decodes the images again", paths[-1])
    return array


def _read_cache(path: Path) -> np.ndarray:
    data = memoryview(path.read_bytes())
    if hashlib.sha256(data[:-32]).digest() != data[-32:]:
        raise ValueError("it is damaged or cut short")
    return np.load(io.BytesIO(data[:-32]), allow_pickle=False)


def _write_cache(path: Path, array: np.ndarray) -> None:
    """All or nothing, however many processes write at once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.parent.stat().st_mode & 0o222:  # root could write all the same
        raise PermissionError(f"{path.parent} is read-only")
    data = io.BytesIO()
    np.save(data, array)
    temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with open(temporary, "wb") as stream:
            stream.write(data.getbuffer())
            stream.write(hashlib.sha256(data.getbuffer()).digest())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _user_cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "vae"
