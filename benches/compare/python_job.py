"""The whole job as one would write it by hand in Python: OpenCV in processes, scikit-learn, pyarrow.

    python_job.py IN OUT.parquet PROCESSES color|gray

Prints the rows and the seconds of the job alone, without imports and the start of the processes.
"""
import glob
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from sklearn.decomposition import PCA

MODE = cv2.IMREAD_GRAYSCALE if sys.argv[4:] == ["gray"] else cv2.IMREAD_COLOR
ORB = None


def start():
    global ORB
    cv2.setNumThreads(1)
    ORB = cv2.ORB_create(nfeatures=30)


def features(paths):
    found = []
    for path in paths:
        keypoints, descriptors = ORB.detectAndCompute(cv2.imread(path, MODE), None)
        if descriptors is not None:
            rows = [(*k.pt, k.size, k.angle, k.response, k.octave) for k in keypoints]
            found.append((path, np.array(rows, np.float32), descriptors))
    return found


def main():
    source, target, processes = sys.argv[1], sys.argv[2], int(sys.argv[3])
    with ProcessPoolExecutor(processes, initializer=start) as pool:
        list(pool.map(abs, range(processes)))
        begun = time.perf_counter()
        paths = sorted(glob.glob(os.path.join(source, "**", "*.jpg"), recursive=True))
        chunks = [paths[i : i + 64] for i in range(0, len(paths), 64)]
        found = [image for chunk in pool.map(features, chunks) for image in chunk]
    descriptors = np.concatenate([f[2] for f in found])
    numbers = np.concatenate([f[1] for f in found])
    counts = [len(f[2]) for f in found]
    pca = PCA(20, svd_solver="covariance_eigh")
    scores = pca.fit_transform(descriptors.astype(np.float64)).astype(np.float32)
    columns = {
        "path": np.repeat([f[0] for f in found], counts),
        "label": np.repeat([os.path.basename(os.path.dirname(f[0])) for f in found], counts),
        **{name: numbers[:, i] for i, name in enumerate(["x", "y", "size", "angle", "response"])},
        "octave": numbers[:, 5].astype(np.int32),
        "descriptor": pa.FixedSizeBinaryArray.from_buffers(
            pa.binary(32), len(descriptors), [None, pa.py_buffer(descriptors)]
        ),
        "pca": pa.FixedSizeListArray.from_arrays(pa.array(scores.ravel()), 20),
    }
    pq.write_table(pa.table(columns), target, compression="zstd")
    print(len(descriptors), time.perf_counter() - begun)


if __name__ == "__main__":
    main()
