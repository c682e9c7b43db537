#!/usr/bin/env bash
# Installs what the tests need, and passes all of them: with and without the optional features.
#
# As root on Debian or Ubuntu it installs system packages; elsewhere it takes what is there, and says
# what it leaves out. Needs Rust and a C compiler. CI runs this same script.
set -euo pipefail
cd "$(dirname "$0")/.."

log=$(mktemp)
trap 'rm -f "$log" "$log".*; kill $(jobs -p) 2>/dev/null || true' EXIT
# Runs tests, and keeps their closing lines for the summary.
tests() { cargo test --quiet "$@" 2>&1 | tee -a "$log"; }
# The end of what runs in the background, with its output.
end_of() { wait "$1" || { cat "$2" && exit 1; }; cat "$2"; }
say() { printf '\n== %s (after %d s)\n' "$*" "$SECONDS"; }
left_out=()

say "system packages"
packages=(build-essential pkg-config nasm clang libclang-dev libopencv-dev python3-venv procps
    gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user)
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    missing=()
    for package in "${packages[@]}"; do
        dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
    done
    if [ ${#missing[@]} -gt 0 ]; then
        apt-get update -qq
        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
    fi
    # On Ubuntu it is no package of apt's own.
    command -v chromium >/dev/null ||
        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium >/dev/null 2>&1 || true
    echo "installed: ${packages[*]}"
else
    echo "not root, or no apt-get: taking what is installed"
fi

# They come over the network while the compiler runs.
venv=target/venv
install() { $venv/bin/uv pip install --quiet --python $venv/bin/python "$@"; }
python_packages() {
    [ -x $venv/bin/python ] || python3 -m venv $venv || return
    $venv/bin/pip install --quiet --disable-pip-version-check uv || return
    install numpy pandas pyarrow polars duckdb scikit-learn opencv-python-headless onnxruntime pillow 'moto[server]' \
        maturin pytest mypy pysail pyspark-client
}
python_packages >"$log.pip" 2>&1 &
pip=$!

features=cli,s3,onnxruntime
if command -v clang >/dev/null && pkg-config --exists opencv4 2>/dev/null; then
    features+=,opencv
else
    left_out+=("feature opencv and the parity tests (need clang, libclang-dev and libopencv-dev)")
fi
echo "features: $features"

say "format and lints, with the Rust that is here"
cargo fmt --all --check
for set in "--no-default-features" ""; do
    # shellcheck disable=SC2086  # the set is words
    cargo clippy --quiet --all-targets $set -- -D warnings
done
# Combinations that no test is built with. With the example come the dev-dependencies, and so the dependencies as above.
for set in "arrow" "parquet" "jpeg,arrow" "table" "draw" "search"; do
    cargo check --quiet --lib --example own_stage --no-default-features --features "$set"
done

say "the oldest Rust, with which all that follows is built"
oldest=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)
if command -v rustup >/dev/null && rustup toolchain install --profile minimal --component clippy "$oldest" >/dev/null 2>&1; then
    export RUSTUP_TOOLCHAIN=$oldest
else
    left_out+=("the build with Rust $oldest (needs rustup and its server)")
fi
rustc --version

say "dependencies"
if cargo deny --version >/dev/null 2>&1; then
    cargo deny --all-features check licenses bans sources
else
    left_out+=("licences and sources of dependencies (need cargo-deny); its advisories are never asked for: they are on GitHub")
fi

say "tests without the optional features, on another architecture; Miri beside them"
if ! cargo +nightly miri --version >/dev/null 2>&1 && command -v rustup >/dev/null; then
    rustup component add --toolchain nightly miri rust-src >/dev/null 2>&1 || true
fi
if cargo +nightly miri --version >/dev/null 2>&1; then
    # The kernels that have pointers. On one thread, while emulated tests leave the other core idle.
    RUSTFLAGS="-Ctarget-feature=+avx2,+fma,+bmi1,+bmi2,+lzcnt,+popcnt" \
        cargo +nightly miri test --quiet --no-default-features --lib -- resized_rows sums_of_products >"$log.miri" 2>&1 &
    miri=$!
else
    left_out+=("Miri on the kernels with pointers (needs nightly Rust with miri)")
fi
aarch64=aarch64-unknown-linux-gnu
if command -v qemu-aarch64 >/dev/null && command -v aarch64-linux-gnu-gcc >/dev/null &&
    command -v rustup >/dev/null && rustup target add $aarch64 >/dev/null 2>&1; then
    # Emulated, but for fits of long vectors that take minutes so: they come below, and what they call is tested here.
    CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc \
        CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER="qemu-aarch64 -L /usr/aarch64-linux-gnu" \
        tests --target $aarch64 --no-default-features --features jpeg --lib --test flow -- \
        --skip wide_pca::passes_over --skip pca::products
else
    tests --no-default-features --features jpeg --lib --test flow
    left_out+=("the tests on aarch64 (need rustup and its server, aarch64-linux-gnu-gcc and qemu-aarch64)")
fi
[ ! -e "$log.miri" ] || end_of "$miri" "$log.miri"

say "features keep to themselves"
tree=$(cargo tree --no-default-features --edges normal --prefix none)
for crate in opencv mozjpeg-sys clap parquet arrow-array aws-sdk-s3 tokio tract-onnx ort askama memmap2 tiny-skia; do
    if grep -q "^$crate v" <<<"$tree"; then
        echo "$crate is built without its feature" && exit 1
    fi
done
echo "none of the optional crates is built without default features"

say "lints, documentation and tests with features $features; benchmarks run once; examples"
# From here on, what is built is read by Clippy too, and doc tests come with the documentation.
export RUSTC_WORKSPACE_WRAPPER=$PWD/ci/lint_and_build.sh RUSTDOC=$PWD/ci/doc_and_test.sh
# Without the Python package, which is built as a wheel below.
all=(--workspace --exclude orb-features-python --features "$features")
# Tests of S3 and of the program wait much.
export RUST_TEST_THREADS=$(($(nproc) * 3))
tests "${all[@]}"
tests "${all[@]}" --bench '*'
target/debug/examples/quickstart target/quickstart-test
target/debug/examples/own_stage
target/debug/examples/own_extractor
target/debug/examples/s3

say "the report in a browser"
if command -v chromium >/dev/null; then
    tests "${all[@]}" --test files -- --ignored report
else
    left_out+=("the report in a browser (needs chromium)")
fi

say "the package has all that it is built from"
cargo package --quiet --allow-dirty --no-verify
packed=$(mktemp -d)
tar -xzf target/package/orb-features-*.crate -C "$packed" --strip-components 1
cargo tree --quiet --manifest-path "$packed/Cargo.toml" --features "$features" >/dev/null
# What the compiler has read.
for file in $(sed -n "s|$PWD/||g; s|^target/[^:]*: ||p" target/debug/deps/orb_features-*.d | tr ' ' '\n' | sort -u); do
    if [ -e "$file" ] && [ ! -e "$packed/$file" ]; then
        echo "$file is not in the package" && exit 1
    fi
done
rm -r "$packed"

say "the recipes, as they stand in the docs"
ci/recipes.sh target/debug/orb-features target/quickstart-test/photos tests/fixtures/onnx/nhwc.onnx

say "other readers and another S3 server, from PyPI"
if wait "$pip"; then
    ORB_FEATURES_MOTO=$PWD/$venv/bin/moto_server \
        tests "${all[@]}" --test s3 -- --include-ignored other_server
    ORT_DYLIB_PATH=$(echo $PWD/$venv/lib/python3*/site-packages/onnxruntime/capi/libonnxruntime.so.*)
    export ORT_DYLIB_PATH
    tests "${all[@]}" --test flow onnx
    # The wheel is built beside the readers, each of which works on one core.
    rm -f target/wheels/*.whl
    PATH=$PWD/$venv/bin:$PATH maturin build --quiet --profile dev -m python/Cargo.toml --out target/wheels \
        >"$log.wheel" 2>&1 &
    wheel=$!
    $venv/bin/python ci/read_back.py target/debug/orb-features target/quickstart-test/photos
    $venv/bin/python ci/read_formats.py target/debug/orb-features target/quickstart-test/photos
    for backend in tract onnxruntime; do
        $venv/bin/python ci/compare_embed.py target/debug/orb-features tests/fixtures/onnx/nhwc.onnx \
            target/quickstart-test/photos --backend $backend --repeat 1
    done
    say "the Python package, on Sail too"
    end_of "$wheel" "$log.wheel"
    echo "the wheel was built (after $SECONDS s)"
    install --reinstall --no-deps target/wheels/*.whl
    # The program is the one that the tests have built. This takes one core for a minute, and so do the tests in Python.
    $venv/bin/python ci/compare_wheel.py target/debug/orb-features target/quickstart-test/photos --keypoints 3000000 \
        >"$log.opencv" 2>&1 &
    opencv=$!
    ORB_FEATURES_PROGRAM=$PWD/target/debug/orb-features $venv/bin/python -m pytest --quiet python/tests | tee "$log.pytest"
    # For the summary, in the form of cargo's.
    awk '/ passed/ { for (i = 2; i <= NF; i++) n[$i] = $(i - 1)
        printf "test result: ok. %d passed; 0 failed; %d ignored;\n", n["passed"] + n["passed,"], n["skipped"] + n["skipped,"] }' \
        "$log.pytest" >>"$log"
    $venv/bin/stubtest orb_features --mypy-config-file python/pyproject.toml --allowlist python/stubtest-allowed.txt
    say "the newest OpenCV"
    end_of "$opencv" "$log.opencv"
else
    cat "$log.pip"
    cargo clippy --quiet --package orb-features-python -- -D warnings
    left_out+=("the checks in Python (need python3 with venv, and PyPI)")
fi

say "passed"
for what in "${left_out[@]}"; do echo "left out: $what"; done
awk '/^test result:/ { passed += $4; failed += $6; ignored += $8 }
     END { printf "%d passed, %d failed, %d skipped\n", passed, failed, ignored }' "$log"
