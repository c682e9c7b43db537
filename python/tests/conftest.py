"""Photos for the tests: those of a folder, or some that are drawn."""

import os
import pathlib

import numpy
import pytest


def drawn(side, seed):
    """A photo with corners: rectangles on a noisy ground, BGR."""
    random = numpy.random.default_rng(seed)
    image = random.integers(90, 110, (side, side, 3)).astype("u1")
    for _ in range(12):
        y, x = random.integers(5, side - 20, 2)
        height, width = random.integers(6, 40, 2)
        image[y : y + height, x : x + width] = random.integers(0, 256, 3)
    return image


@pytest.fixture(scope="session")
def photos(tmp_path_factory):
    """A folder of photos in folders by label, all of them good."""
    given = os.environ.get("ORB_FEATURES_PHOTOS")
    if given:
        return pathlib.Path(given).resolve()
    cv2 = pytest.importorskip("cv2")
    root = tmp_path_factory.mktemp("photos")
    for i in range(24):
        folder = root / ["apple", "pear kind", "plum"][i % 3]
        folder.mkdir(exist_ok=True)
        cv2.imwrite(str(folder / f"{i}.jpg"), drawn(100 + 20 * (i % 4), i))
    cv2.imwrite(str(root / "plum" / "flat.png"), numpy.full((64, 64), 77, "u1"))
    return root


@pytest.fixture
def damaged(photos, tmp_path):
    """A folder with a good photo between two bad ones."""
    good = next(photos.glob("**/*.jpg")).read_bytes()
    (tmp_path / "kind").mkdir()
    for name, content in {"a.jpg": good[:300], "b.jpg": good, "c.jpg": b"no image"}.items():
        (tmp_path / "kind" / name).write_bytes(content)
    return tmp_path
