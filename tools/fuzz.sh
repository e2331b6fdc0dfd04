#!/bin/sh
# Fuzzes the baseline JPEG decoder: against libjpeg-turbo, under ASan and UBSan; or with `memory`
# as the second word alone, under MSan. The corpus grows in .cache/fuzz from run to run; a finding
# is left there as crash-*, and makes this fail.
#
# Usage: tools/fuzz.sh [SECONDS [memory]]
set -eu
cd "$(dirname "$0")/.."
seconds=${1:-600}
work=.cache/fuzz
mkdir -p "$work/corpus" "$work/seeds"

flags="-std=c11 -D_GNU_SOURCE -ffp-contract=off -g -O2 -Icsrc -Itests/core/native"
decoder="csrc/levels.c csrc/jpeg_header.c csrc/jpeg_baseline.c csrc/jpeg_entropy.c csrc/jpeg_pixels*.c"
case ${2:-} in
memory) sanitize=fuzzer,memory ;;
*) sanitize=fuzzer,address,undefined ;;
esac
${CC:-clang} $flags -fsanitize=$sanitize -fno-sanitize-recover=all \
    fuzz/fuzz_jpeg.c $decoder -ljpeg -o "$work/fuzz_jpeg"
${CC:-clang} $flags tests/core/native/jpeg_decoder.c $decoder -ljpeg -o "$work/make_seeds"
"$work/make_seeds" -n 300 -w "$work/seeds"

"$work/fuzz_jpeg" -max_total_time="$seconds" -max_len=8192 -timeout=20 \
    -artifact_prefix="$work/" -print_final_stats=1 "$work/corpus" "$work/seeds"
