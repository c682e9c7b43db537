"""The examples in docstrings, and the code of README.md as it stands."""

import doctest
import importlib
import pathlib
import re

import pytest
from conftest import drawn

NAMES = ["orb_features", "orb_features.cv2", "orb_features.errors", "orb_features.spark"]


@pytest.mark.parametrize("name", NAMES)
def test_docstrings(name):
    if name.endswith("cv2"):
        pytest.importorskip("cv2")
    assert doctest.testmod(importlib.import_module(name)).failed == 0


def test_readme(photos, tmp_path, monkeypatch):
    pytest.importorskip("pyarrow")
    cv2 = pytest.importorskip("cv2")
    text = (pathlib.Path(__file__).parent.parent / "README.md").read_text()
    (tmp_path / "photos").symlink_to(photos)
    monkeypatch.chdir(tmp_path)
    cv2.imwrite("photo.jpg", drawn(200, 1))
    names = {}
    for code in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        exec(code, names)
    assert names["report"]["rows"] == len(names["table"]) > 0
    assert names["scores"].shape == (len(names["descriptors"]), 5)
