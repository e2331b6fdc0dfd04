#!/bin/sh
# Fuzzes the core on JPEG files:
#
#   jpeg     our decoders against libjpeg-turbo, under ASan and UBSan
#   prepare  the way from a file to a tensor, against libjpeg-turbo, likewise
#   memory   our decoders under MSan, without libjpeg-turbo
#
# The corpus in .cache/fuzz grows from run to run. An input that fails is left there as crash-*,
# and the script fails. fuzz/against_pillow.py compares with Pillow instead.
#
# Usage: tools/fuzz.sh [SECONDS [TARGET]]   (default: 600 seconds, half each for jpeg and prepare)
# shellcheck disable=SC2086  # variables that hold several words
set -eu
cd "$(dirname "$0")/.."
seconds=${1:-600}
work=.cache/fuzz
mkdir -p "$work/corpus" "$work/seeds"

flags="-std=c11 -D_GNU_SOURCE -ffp-contract=off -g -O2 -Icsrc -Itests/core/native"
decoder="csrc/levels.c csrc/decode.c csrc/jpeg_*.c"
${CC:-clang} $flags tests/core/native/jpeg_decoder.c $decoder -ljpeg -o "$work/make_seeds"
"$work/make_seeds" -n 300 -w "$work/seeds"

run() { # run PROGRAM SECONDS SANITIZERS SOURCE...
    program=$work/$1
    limit=$2
    sanitizers=$3
    shift 3
    # shellcheck disable=SC2086  # several words
    ${CC:-clang} $flags "-fsanitize=fuzzer,$sanitizers" -fno-sanitize-recover=all "$@" \
        -ljpeg -lm -pthread -o "$program"
    "$program" -max_total_time="$limit" -max_len=8192 -timeout=20 \
        -artifact_prefix="$work/" -print_final_stats=1 "$work/corpus" "$work/seeds"
}
case ${2:-all} in
jpeg) run fuzz_jpeg "$seconds" address,undefined fuzz/fuzz_jpeg.c $decoder ;;
prepare)
    run fuzz_prepare "$seconds" address,undefined fuzz/fuzz_prepare.c $decoder \
        csrc/checksum.c csrc/file.c csrc/geometry.c csrc/kernels_*.c csrc/opencv_*.c csrc/orientation.c \
        csrc/pack.c csrc/prepare.c csrc/resample.c csrc/resizer.c
    ;;
memory) run fuzz_memory "$seconds" memory fuzz/fuzz_jpeg.c $decoder ;;
all)
    sh "$0" $((seconds / 2)) jpeg
    sh "$0" $((seconds / 2)) prepare
    ;;
*)
    echo "zoofast: no fuzzing target is named $2; known: jpeg, prepare, memory" >&2
    exit 2
    ;;
esac
