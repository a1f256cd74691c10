"""Data sets for tests: prepared TFDS sets, random images, and what a refusal must look like."""

import io
import json
import re

import numpy as np
import pytest

from vae.data import load


def refusal(name, *args, **kwargs):
    """The one sentence with which `load` refuses; it must begin with an argument."""
    with pytest.raises((ValueError, OSError)) as caught:
        load(name, *args, **kwargs)
    return one_sentence(caught.value)


def one_sentence(error):
    message = str(error)
    assert re.match(r"\w+=", message)
    assert "\n" not in message
    assert not message.endswith(".")
    return message


def rows(*splits):
    """The images of all splits in a canonical order, to compare sets of images."""
    return sorted(image.tobytes() for images in splits for image in images)


def write_tfds(folder, splits, *, feature=None, file_format="array_record", key="image", classes=0):
    """A prepared TFDS set called `folder.parent.name` without tensorflow; splits: {name: uint8 [N, H, W, C]}. With
    `classes`, the label of an image is its first pixel modulo `classes`."""
    from array_record.python.array_record_module import ArrayRecordWriter
    from PIL import Image
    from tensorflow_datasets.proto import tf_example_pb2

    name = folder.relative_to(folder.parents[1]).parts[0]
    folder.mkdir(parents=True)
    shape = next(iter(splits.values())).shape[1:]
    image = {
        "image": feature or {"dtype": "uint8", "shape": {"dimensions": [str(side) for side in shape]}},
        "pythonClassName": "tensorflow_datasets.core.features.image_feature.Image",
    }
    info = {"name": name, "version": folder.name, "fileFormat": file_format, "splits": []}
    for split, images in splits.items():
        writer = ArrayRecordWriter(str(folder / f"{name}-{split}.array_record-00000-of-00001"), "group_size:1")
        for pixel in images:
            png = io.BytesIO()
            Image.fromarray(pixel[..., 0]).save(png, "png")
            example = tf_example_pb2.Example()
            example.features.feature[key].bytes_list.value.append(png.getvalue())
            if classes:
                example.features.feature["label"].int64_list.value.append(int(pixel.flat[0]) % classes)
            writer.write(example.SerializeToString())
        writer.close()
        template = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
        info["splits"].append({"name": split, "shardLengths": [str(len(images))], "filepathTemplate": template})
    (folder / "dataset_info.json").write_text(json.dumps(info))
    label = {
        "classLabel": {"numClasses": str(classes)},
        "pythonClassName": "tensorflow_datasets.core.features.class_label_feature.ClassLabel",
    }
    features = {
        "pythonClassName": "tensorflow_datasets.core.features.features_dict.FeaturesDict",
        "featuresDict": {"features": {key: image} | ({"label": label} if classes else {})},
    }
    (folder / "features.json").write_text(json.dumps(features))


def some_images(n, seed=0, high=256):
    return np.random.default_rng(seed).integers(0, high, (n, 5, 4, 1), dtype=np.uint8)
