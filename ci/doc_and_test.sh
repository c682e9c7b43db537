#!/usr/bin/env bash
# Stands in for rustdoc where cargo runs a crate's doc tests: its documentation is built first, with warnings denied.
# `cargo doc` would read all dependencies once more than the build of the tests does.
set -euo pipefail
if [[ " $* " == *" --test "* ]]; then
    doc=()
    given=("$@")
    for ((i = 0; i < $#; i++)); do
        case ${given[i]} in
            --test) ;;
            --test-run-directory) i=$((i + 1)) ;;
            *) doc+=("${given[i]}") ;;
        esac
    done
    rustdoc -Dwarnings "${doc[@]}" --out-dir target/lints/doc
fi
exec rustdoc "$@"
