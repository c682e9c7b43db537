"""cv2 with the ORB of this package, for notebooks: ``from orb_features import cv2`` in place of ``import cv2``.

All other names are those of the cv2 that is installed.

>>> from orb_features import cv2
>>> cv2.ORB_create(nfeatures=30).getMaxFeatures()
30
"""

from . import ORB, ORB_FAST_SCORE, ORB_HARRIS_SCORE, ORB_create


def __getattr__(name):
    import cv2

    return getattr(cv2, name)


def __dir__():
    import cv2

    return sorted({*dir(cv2), *globals()})


__all__ = ["ORB", "ORB_FAST_SCORE", "ORB_HARRIS_SCORE", "ORB_create"]
