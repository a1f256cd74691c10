"""The prepared TFDS sets that several files test."""

import pytest

from tests.helpers.data_sets import some_images, write_tfds


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A folder with the sets that the tests below read."""
    root = tmp_path_factory.mktemp("prepared")
    write_tfds(root / "faces" / "1.0.0", {"train": some_images(4), "test": some_images(2)})
    write_tfds(
        root / "faces" / "1.10.0", {"train": some_images(2100), "test": some_images(20), "extra": some_images(1)}
    )
    write_tfds(root / "faces" / "1.9.0", {"train": some_images(5), "test": some_images(2)})
    three = {"train": some_images(9, 1, 2), "validation": some_images(4, 2, 2), "test": some_images(5, 3, 2)}
    write_tfds(root / "binary" / "1.0.0", three)
    write_tfds(root / "classes" / "1.0.0", {"train": some_images(1100), "test": some_images(7, 1)}, classes=5)
    write_tfds(root / "untested" / "1.0.0", {"train": some_images(30)})
    write_tfds(root / "untrained" / "1.0.0", {"test": some_images(3)})
    write_tfds(root / "old" / "1.0.0", {"train": some_images(3)}, file_format="tfrecord")
    write_tfds(
        root / "photos" / "1.0.0",
        {"train": some_images(3)},
        feature={"dtype": "uint8", "shape": {"dimensions": ["-1", "-1", "3"]}},
    )
    write_tfds(
        root / "deep" / "1.0.0",
        {"train": some_images(3)},
        feature={"dtype": "uint16", "shape": {"dimensions": ["5", "4", "1"]}},
    )
    write_tfds(root / "keyed" / "1.0.0", {"train": some_images(3)}, key="picture")
    return root
