"""OpenCV's ORB bit for bit, and many times faster; jobs on folders and S3 to Arrow and Parquet; a PCA that merges.

>>> import numpy, orb_features
>>> orb = orb_features.ORB_create(nfeatures=30)
>>> keypoints, descriptors = orb.detectAndCompute(numpy.zeros((100, 100), "u1"), None)
>>> keypoints, descriptors
((), None)
"""

import difflib as _difflib
import json as _json
import os as _os

from ._lib import (
    KEYPOINT_DTYPE,
    ORB,
    Extraction,
    KeyPoint,
    Matcher,
    Moments,
    ORB_create,
    Pca,
    __version__,
    find_homography,
)
from .errors import (
    DecodeError,
    ExtractError,
    OrbFeaturesError,
    ParamError,
    PcaError,
    SinkError,
    SourceError,
)

#: Scores that rank the corners, as in cv2.
ORB_HARRIS_SCORE = 0
ORB_FAST_SCORE = 1

#: The parameters of ORB in jobs, by the library's names, which are also those of the program.
ORB_PARAMETERS = (
    "n_features",
    "scale_factor",
    "n_levels",
    "edge_threshold",
    "first_level",
    "wta_k",
    "score_type",
    "patch_size",
    "fast_threshold",
    "max_keypoints",
    "compat",
)


#: The other options of ``extract``.
OPTIONS = (
    "pca", "rows", "layout", "label", "glob", "extensions", "recursive", "on_error", "max_failures", "allow_empty", "gray", "exif",
    "solver", "seed", "centering", "pca_input", "threads", "storage_options", "requests_in_flight", "listing", "listed", "force",
)  # fmt: skip


def _split(options):
    """The ORB parameters among options, as JSON, and the other options."""
    orb = {name: options.pop(name) for name in ORB_PARAMETERS if name in options}
    return _json.dumps({"n_features": 30, **orb}), options


def extract(source, **options):
    """A job on a folder, or on ``s3://bucket/prefix``: one row for each descriptor.

    Returns an ``Extraction``, which reads the folder when it is run. It is a stream of Arrow: ``polars.DataFrame(job)``, ``pyarrow.table(job)`` and ``duckdb.sql("from job")`` take it,
    and each time the job runs. ``job.write_parquet(out)`` writes it to files instead, all or nothing, and returns the report.

    Options:
        the parameters of ORB, ``ORB_PARAMETERS``: ``n_features`` (30 by default, a quota for each photo) and so on.
        pca: a number of components, a share of the variance such as 0.95, or a ``Pca``; then a row has scores, too.
            ``solver``, ``seed``, ``centering`` ("mean" or "none", which is Spark's), ``pca_input`` ("bytes" or "bits"). A ``Pca``
            that knows that it was fitted to other features is refused, unless ``force``.
        rows: "descriptor", "image" (lists in one row for each photo) or "padded:N" (the first N in one).
        layout: "arrow", or "spark" with columns of the form of Spark's vectors.
        label: "parent" (the folder's name), "none", "segment:N" or "hive:KEY".
        glob, extensions, recursive: which files are taken; by default all images in all subfolders.
        listing: a file of keys, or an S3 Inventory, instead of listing the bucket.
        on_error: "fail" ends the job at a photo that cannot be decoded, "skip" leaves it out, "record" makes it a row with
            ``error_code`` and ``error`` in the stream, and writes it to a table of its own beside the files.
            ``max_failures``: "100" or "5%". ``allow_empty``: whether a job may have no good photo at all.
        gray: "bgr", as cv2.imread and cv2.cvtColor, or "luma", faster. exif: "apply" or "ignore" the orientation.
        threads: one for each core by default; any number gives the same bits.
        storage_options: how S3 is reached, where the standard AWS chain does not say it: region, endpoint_url, addressing,
            profile, anonymous, access_key_id, secret_access_key, session_token.
        requests_in_flight: objects that are fetched from S3 at a time.

    Raises:
        OrbFeaturesError: one of its kinds, which name the photo or the folder, the stage and the cause. The readers of a stream
            raise Arrow's errors instead, with the text; the error itself is ``job.last_error`` then.
    """
    for name in options:
        if name not in (*ORB_PARAMETERS, *OPTIONS):
            near = _difflib.get_close_matches(name, (*ORB_PARAMETERS, *OPTIONS), 1)
            raise TypeError(f"unknown option {name}" + (f": {near[0]}?" if near else "; see help(orb_features.extract)"))
    if isinstance(options.get("extensions"), str):
        raise TypeError(f"extensions: a list is due, such as [{options['extensions']!r}]")
    orb, options = _split(dict(options))
    return Extraction(_os.fspath(source), orb, **options)


__all__ = [
    "KEYPOINT_DTYPE",
    "ORB",
    "ORB_FAST_SCORE",
    "ORB_HARRIS_SCORE",
    "OPTIONS",
    "ORB_PARAMETERS",
    "DecodeError",
    "ExtractError",
    "Extraction",
    "KeyPoint",
    "Matcher",
    "Moments",
    "ORB_create",
    "OrbFeaturesError",
    "ParamError",
    "Pca",
    "PcaError",
    "SinkError",
    "SourceError",
    "__version__",
    "extract",
    "find_homography",
]
