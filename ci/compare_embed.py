"""Compares `orb-features embed` with ONNX Runtime and Pillow in Python, vector by vector, and times both.

    python3 tests/fixtures/make_onnx.py m224.onnx
    python3 ci/compare_embed.py PROGRAM m224.onnx FOLDER [--output NAME] [--backend onnxruntime] [--processes 2]

The Python side is the notebooks' way: a session per process on one thread, a photo at a time. Needs numpy, onnxruntime,
Pillow and pyarrow. Exits with 1 if a relative error reaches 1e-4.
"""

import argparse
import json
import multiprocessing
import os
import pathlib
import subprocess
import sys
import tempfile
import time

import numpy as np
import pyarrow.parquet as parquet


def start(network, output):
    import onnxruntime

    global session, wanted, size
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(network, options, providers=["CPUExecutionProvider"])
    wanted = output or session.get_outputs()[-1].name
    size = session.get_inputs()[0].shape[1:3]


def embed(path):
    from PIL import Image

    x = np.asarray(Image.open(path).convert("RGB").resize((size[1], size[0])), np.float32)
    return session.run([wanted], {session.get_inputs()[0].name: x[None] / 127.5 - 1})[0].reshape(-1)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program")
    parser.add_argument("network")
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--output")
    parser.add_argument("--backend", default="tract", choices=["tract", "onnxruntime"])
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    parser.add_argument("--repeat", type=int, default=3)
    args = parser.parse_args()

    paths = sorted(str(path) for path in args.folder.rglob("*.jpg"))
    command = [args.program, "embed", str(args.folder), "--onnx", args.network, "--onnx-backend", args.backend, "--json"]
    command += ["--threads", str(args.processes)] + (["--output", args.output] if args.output else [])
    ours, theirs = [], []
    with tempfile.TemporaryDirectory() as temporary, multiprocessing.Pool(args.processes, start, (args.network, args.output)) as pool:
        pool.map(embed, paths[:args.processes])
        for n in range(args.repeat):
            begin = time.perf_counter()
            want = pool.map(embed, paths, chunksize=8)
            theirs.append(time.perf_counter() - begin)
            out = f"{temporary}/{n}"
            begin = time.perf_counter()
            report = json.loads(subprocess.run([*command[:3], out, *command[3:]], check=True, capture_output=True).stdout)
            ours.append(time.perf_counter() - begin)
        rows = parquet.read_table(out)
    got = {path: vector for path, vector in zip(rows["path"].to_pylist(), rows["vector"].to_numpy())}
    assert len(got) == len(paths) == report["rows"], (len(got), len(paths))
    errors = [float(np.linalg.norm(got[p] - w) / np.linalg.norm(w)) for p, w in zip(paths, want)]
    rate = lambda seconds: len(paths) / sorted(seconds)[len(seconds) // 2]
    print(f"{len(paths)} photos, {len(want[0])} numbers, {args.backend}: largest relative error {max(errors):.1e}")
    print(f"images/s: program {rate(ours):.0f}, Python {rate(theirs):.0f}, ratio {rate(ours) / rate(theirs):.2f}")
    sys.exit(max(errors) >= 1e-4)


if __name__ == "__main__":
    main()
