#!/usr/bin/env bash
# Stands in for the compiler where cargo builds a crate of this workspace: Clippy reads the crate while the compiler
# builds it. `cargo clippy` would read all dependencies once more than the build does.
set -euo pipefail
# The wheel's own crate is read alone: its dependency has been read with more features.
[[ " $* " == *" --emit="* && -n ${CARGO_PRIMARY_PACKAGE-} ]] || exec "$@"

given=("$@")
all=()
# As a crate that has S3 and what it needs, but not the program: its code may be used by nothing then.
s3=()
for ((i = 0; i < $#; i++)); do
    arg=("${given[i]}")
    case ${arg[0]} in
        --cfg | -C | --out-dir) i=$((i + 1)) && arg+=("${given[i]}") ;;
        # cargo must not take what Clippy leaves for what the compiler has built.
        --json=*) arg=("${arg[0]/artifacts,/}") ;;
    esac
    case ${arg[*]} in
        --emit=* | "--out-dir "* | "-C incremental="*) continue ;;
    esac
    all+=("${arg[@]}")
    [[ ${arg[*]} =~ ^--cfg\ feature= && ! ${arg[*]} =~ \"(default|jpeg|arrow|parquet|table|s3)\" ]] || s3+=("${arg[@]}")
done

lint() {
    CLIPPY_ARGS="-Dwarnings__CLIPPY_HACKERY__" clippy-driver "$@" --emit=metadata --out-dir target/lints
}
said=$(mktemp)
trap 'rm -f "$said"' EXIT
{
    lint "${all[@]}"
    [[ ${#s3[@]} == "${#all[@]}" || " $* " == *" src/bin/orb-features/main.rs "* ]] || lint "${s3[@]}"
} 2>"$said" &
"$@"
wait $! || { cat "$said" >&2 && exit 1; }
