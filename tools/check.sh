#!/bin/sh
# Checks by name, beyond `make test`: tools/check.sh NAME [pytest options]
#
#   asan     the tests of what runs in C, on a build with ASan and UBSan
#   oldest   the tests of preparing and scoring with the oldest versions that pyproject.toml allows
#   scalar   the tests of what uses kernels, with the scalar ones
#   acl-asan, acl-tsan  the C code of the backend acl with ASan and UBSan, or TSan, on an emulation
#            of ACL (beside the checkout, or in $ZOOFAST_SHARED) that is built with the same
#   aarch64  the C core built for aarch64 and run under qemu-user; root gets the packages by apt
#
# asan and oldest build a copy of the working tree in .cache/check, with a virtual environment of
# its own. $PYTHON (default: .venv/bin/python) runs the others. asan, oldest and scalar leave out
# what `make test` has proven and what is the same here; they draw fewer examples and pictures.
set -eu
cd "$(dirname "$0")/.."
root=$PWD
name=${1:?"usage: tools/check.sh asan|oldest|scalar|acl-asan|acl-tsan|aarch64 [pytest options]"}
shift
python=${PYTHON:-.venv/bin/python}

# The packages that run in C. The programs of test_native.py and test_baseline.py are compiled from
# csrc/ alone, so that `make test` has proven all that they can.
compiled="--ignore tests/core/test_native.py --ignore tests/core/test_baseline.py"
files="tests/core tests/preprocess tests/scoring $compiled"
# Of these, what depends on the kernels.
kernels="tests/core tests/preprocess/test_cache.py tests/preprocess/test_detection.py
    tests/preprocess/test_folder.py tests/preprocess/test_golden.py tests/preprocess/test_importers.py
    tests/preprocess/test_loader.py tests/preprocess/test_opencv.py tests/preprocess/test_padding.py
    tests/preprocess/test_reference.py tests/preprocess/test_zoo.py tests/scoring/test_formats.py
    tests/scoring/test_logits.py $compiled --ignore tests/core/test_fork.py"
parallel="-n auto --maxprocesses 8 --dist worksteal"
export ZOOFAST_TEST_ZOO=few

# The working tree in .cache/check/$name, and a virtual environment beside it with the packages
# given; leaves there.
fresh() {
    at=$root/.cache/check/$name
    rm -rf "$at/tree"
    mkdir -p "$at/tree"
    git ls-files -z --cached --others --exclude-standard | xargs -0 tar -cf - 2>/dev/null |
        tar -xf - -C "$at/tree"
    [ -x "$at/venv/bin/python" ] || python3 -m venv "$at/venv"
    "$at/venv/bin/python" -m pip install -q --disable-pip-version-check --no-compile \
        'setuptools>=77' 'cython>=3.1' "$@"
    export ZOOFAST_SHARED="${ZOOFAST_SHARED:-$root/../shared}"
    cd "$at/tree"
    "$at/venv/bin/python" -m pip install -q --disable-pip-version-check --no-build-isolation -e .
    python=$at/venv/bin/python
}

case $name in
asan)
    export ZOOFAST_SANITIZE=1
    fresh 'pytest>=7.4' 'pytest-xdist>=3.2' 'hypothesis>=6.80' 'scipy>=1.8'
    # The interpreter is not sanitized, so that the runtime has to be there before it.
    LD_PRELOAD="$(cc -print-file-name=libasan.so) $(cc -print-file-name=libubsan.so)"
    export LD_PRELOAD
    # Freed memory is kept for a while, but not so much that the test of memory fails.
    export ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1:quarantine_size_mb=16
    export UBSAN_OPTIONS=print_stacktrace=1
    # The zoo's golden tensors run the same kernels as those of the guides. The other tests that are
    # left out are about files and names, in Python.
    # shellcheck disable=SC2086  # several words
    exec "$python" -m pytest -q -p no:cacheprovider $parallel $files \
        --ignore tests/preprocess/test_golden.py --ignore tests/preprocess/test_folder.py \
        --ignore tests/preprocess/test_manifest.py --ignore tests/preprocess/test_merge.py \
        --ignore tests/preprocess/test_bins.py --ignore tests/scoring/test_labels.py \
        --deselect tests/scoring/test_hostile.py::test_result_jsons "$@"
    ;;
oldest)
    # NumPy and pyarrow: the oldest with a wheel for this Python
    numpy=$(python3 -c 'import sys; v = sys.version_info
print("1.23.2" if v < (3, 12) else "1.26.0" if v < (3, 13) else "2.1.0")')
    pyarrow=$(python3 -c 'import sys; v = sys.version_info
print("15.0.0" if v < (3, 13) else "18.0.0" if v < (3, 14) else "22.0.0")')
    fresh "numpy==$numpy" 'pillow==10.0.0' 'rich==13.0.0' 'pytest==7.4.0' \
        'pytest-xdist==3.2.0' 'hypothesis==6.80.0' 'scipy==1.9.3' "pyarrow==$pyarrow" \
        'zstandard==0.21.0'
    "$python" -m pytest -q -p no:cacheprovider -m slow tests/preprocess/test_parquet.py \
        tests/preprocess/test_parquet_pages.py tests/preprocess/test_compressed_tars.py
    # shellcheck disable=SC2086
    ZOOFAST_TEST_LEVELS=one HYPOTHESIS_PROFILE=few exec "$python" -m pytest -q \
        -p no:cacheprovider $parallel $files tests/base tests/commands/test_prep.py "$@"
    ;;
scalar)
    # Tests that name a level are left out: `make test` runs them at every level.
    # shellcheck disable=SC2086
    ZOOFAST_ISA=scalar ZOOFAST_TEST_LEVELS=one HYPOTHESIS_PROFILE=few exec "$python" -m pytest -q \
        $parallel $kernels -k "not scalar" "$@"
    ;;
acl-asan | acl-tsan)
    ZOOFAST_SANITIZED_ACL=1 exec "$python" -m pytest -q -m slow tests/inference/test_acl_native.py \
        -k "${name#acl-}" "$@"
    ;;
aarch64)
    if [ "$(id -u)" -eq 0 ] && ! command -v qemu-aarch64 >/dev/null; then
        apt-get update -qq
        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq gcc-aarch64-linux-gnu \
            libc6-dev-arm64-cross qemu-user >/dev/null
    fi
    exec "$python" -m pytest -q tests/core/test_native.py tests/core/test_baseline.py \
        tests/preprocess/test_opencv.py -k aarch64 "$@"
    ;;
*)
    echo "zoofast: no check is named $name; known: asan, oldest, scalar," \
        "acl-asan, acl-tsan, aarch64" >&2
    exit 2
    ;;
esac
