#!/bin/sh
# Tries a wheel as a user would: sh tools/try_wheel.sh x86_64|aarch64 [FOLDER]   (default: dist)
#
# x86_64: in a new virtual environment, on a PATH without a compiler.
# aarch64: under qemu-user, with Debian's Python and the wheels that PyPI has for aarch64. Root gets
# what is missing by apt.
#
# $PYTHON3 (default: python3) makes the environment. The tests of the checkout then run against the
# installed wheel: golden tensors of all recipes, hostile files, score, eval, every CPU level.
set -eu
cd "$(dirname "$0")/.."
root=$PWD
machine=${1:?"usage: tools/try_wheel.sh x86_64|aarch64 [FOLDER]"}
wheel=$(cd "${2:-dist}" && ls "$PWD"/zoofast-*_"$machine".whl)
python3=${PYTHON3:-python3}
work=$root/.cache/check/wheel-$machine
pip() { "$python3" -m pip install -q --disable-pip-version-check --only-binary=:all: "$@"; }

rm -rf "$work"
mkdir -p "$work/tree"
# The tests without the package, which would be imported instead of the wheel.
cp -r tests pyproject.toml "$work/tree"
export ZOOFAST_SHARED="${ZOOFAST_SHARED:-$root/../shared}"
ZOOFAST_TRIAL_COMMIT=$("$python3" -c 'import sys, zipfile
print(zipfile.ZipFile(sys.argv[1]).read("zoofast/commit.txt").decode().strip())' "$wheel")
export ZOOFAST_TRIAL_COMMIT

case $machine in
x86_64)
    "$python3" -m venv "$work/venv"
    bare() { PATH=$work/venv/bin "$@"; }
    for compiler in cc gcc clang; do
        if bare command -v $compiler; then
            echo "try_wheel: $compiler is on the PATH" >&2
            exit 1
        fi
    done
    milliseconds() { echo $(($(date +%s%N) / 1000000)); }
    begin=$(milliseconds)
    bare "$work/venv/bin/python" -m pip install -q --disable-pip-version-check \
        --only-binary=:all: "$wheel"
    installed=$(milliseconds)
    "$work/venv/bin/python" tools/images.py "$work/images" 20
    prepare=$(milliseconds)
    bare "$work/venv/bin/zoofast-prep" "$work/images" "$work/bins" --recipe alexnet --quiet
    end=$(milliseconds)
    echo "installed in $((installed - begin)) ms; prepared 20 images in $((end - prepare)) ms"
    python3=$work/venv/bin/python
    pip pytest hypothesis
    python=$python3
    ;;
aarch64)
    if [ "$(id -u)" -eq 0 ]; then
        dpkg --add-architecture arm64
        apt-get update -qq
        command -v qemu-aarch64 >/dev/null ||
            DEBIAN_FRONTEND=noninteractive apt-get install -y -qq qemu-user >/dev/null
    fi
    version=$(apt-cache show --no-all-versions python3:arm64 |
        sed -n 's/^Version: \(3\.[0-9]*\).*/\1/p')
    (
        mkdir "$work/debs"
        cd "$work/debs"
        for package in "python$version-minimal" "libpython$version-minimal" \
            "libpython$version-stdlib" libc6 libgcc-s1 libstdc++6 libbz2-1.0 libexpat1 libffi8 \
            liblzma5 zlib1g; do
            apt-get download -qq "$package:arm64" 2>/dev/null
        done
        for package in *.deb; do dpkg -x "$package" "$work/root"; done
    )
    pip --target "$work/site" --python-version "$version" --platform manylinux_2_28_aarch64 \
        --platform manylinux_2_27_aarch64 --platform manylinux_2_17_aarch64 \
        --platform manylinux2014_aarch64 "$wheel" pytest hypothesis
    export QEMU_LD_PREFIX="$work/root" PYTHONPATH="$work/site"
    python="qemu-aarch64 $work/root/usr/bin/python$version -S"
    ;;
*)
    echo "try_wheel: $machine is no machine that wheels are built for" >&2
    exit 2
    ;;
esac

cd "$work/tree"
# shellcheck disable=SC2086  # several words
exec $python -m pytest -q -p no:cacheprovider tests/trial.py tests/core/test_hostile.py \
    tests/core/test_kernels.py::test_the_best_level_is_what_linux_says_of_this_cpu \
    tests/preprocess/test_zoo.py::test_the_guides_tensors
