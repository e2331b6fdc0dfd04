#!/bin/sh
# Kills zoofast, makes its system calls fail and feeds it hostile files; checks that nothing is lost
# or wrong. docs/reliability.md says what is promised, and what this campaign counted.
#
#   tools/campaign.sh             about two minutes
#   tools/campaign.sh long        1,000 kills and 1,000 faults
#   tools/campaign.sh [long] SEED other moments and other calls
#   tools/campaign.sh [long] prep only one command
#
# Exit code 1 when anything was not as promised. $MINUTES ends it earlier. $PYTHON runs it (default:
# .venv/bin/python).
set -eu
cd "$(dirname "$0")/.."
work=.cache/campaign
mkdir -p "$work"
cc -std=gnu11 -O1 -Wall -Wextra -shared -fPIC tests/support/faults.c -ldl -o "$work/faults.so"
export OMP_NUM_THREADS=1 PYTHONPATH="$PWD" LD_PRELOAD="$PWD/$work/faults.so"
exec "${PYTHON:-.venv/bin/python}" -m tests.support.campaign "$work" "$@"
