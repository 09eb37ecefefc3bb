#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# day.sh BUILD OUT: the one script for a day with a GPU. In order of what would be missed most: facts, ceilings, parity with the
# plain C codecs, speed at five sizes, a model's prefill and decode, two processes over an exported pool, an FP8 cast and nvCOMP's ANS
# beside ours (where torch and nvidia-libnvcomp are), compute-sanitizer where it is, profile of the four hot kernels where ncu is. Each step writes
# OUT/STEP.csv (or .txt) when it ends, has a deadline of its own, and never stops the next; OUT/steps.csv has status and seconds
# of each. Under 7 minutes: what doesn't fit is left out, and said.
# BUILD has the tests and kernels.fatbin (nvcc). DAY_SMALL=1, DAY_IMAGE: for a dry run on the stand-in (tests/gpu).
set -u
build=${1:?usage: day.sh BUILD OUT} out=${2:?usage: day.sh BUILD OUT}
image=${DAY_IMAGE:-$build/kernels.fatbin}
program=$build/tests/gpu/gpu_day
total=${DAY_SECONDS:-420}
mkdir -p "$out" || exit 1
for f in "$program" "$image"; do
    [ -r "$f" ] || { echo "day.sh: $f isn't there: build first" >&2; exit 1; }
done
echo 'step,status,seconds' >"$out/steps.csv"
bad=0
step() { # NAME SECONDS FILE COMMAND...
    local name=$1 limit=$2 file=$3 begin=$SECONDS status
    shift 3
    if [ $((total - begin)) -lt 5 ]; then
        echo "$name,left out,0" >>"$out/steps.csv"
        return
    fi
    [ $((total - begin)) -ge "$limit" ] || limit=$((total - begin))
    timeout -k 5 "$limit" "$@" >"$out/$file.part" 2>"$out/$name.err"
    status=$?
    mv "$out/$file.part" "$out/$file"
    [ -s "$out/$name.err" ] || rm -f "$out/$name.err"
    echo "$name,$status,$((SECONDS - begin))" >>"$out/steps.csv"
    [ $status = 0 ] || { bad=1; echo "day.sh: $name: status $status ($out/$name.err)" >&2; }
}
have() { # NAME PROGRAM: else the step is said to be missing
    command -v "$2" >/dev/null && return
    echo "$1,no $2 here,0" >>"$out/steps.csv"
    return 1
}
have smi nvidia-smi && step smi 15 smi.txt nvidia-smi -q
step facts 20 facts.csv "$program" "$image" facts
step ceilings 30 ceilings.csv "$program" "$image" ceilings
step parity 60 parity.csv "$program" "$image" parity
step speed 90 speed.csv "$program" "$image" speed
# Computed: 1 GB of random values 3 s, 16 GB of weights to VRAM 1 s, five prompts each of 2,048 and 8,192 tokens (30 and 131 TFLOP)
# at a third of the peak 3 s, eight steps of decode 0.2 s, CUDA and cuBLASLt 5 s: 13 s; 60 s is where it is given up.
step model 60 model.csv "$program" "$image" model
step pair 40 pair.csv "$program" "$image" pair
have yard python3 && step yard 40 yard.csv python3 "$(dirname "$0")/../tests/gpu/yard.py"
if have sanitizer compute-sanitizer; then
    step memcheck 60 memcheck.txt env DAY_SMALL=1 compute-sanitizer --tool memcheck --error-exitcode 9 "$program" "$image" parity
    step racecheck 60 racecheck.txt env DAY_SMALL=1 compute-sanitizer --tool racecheck --error-exitcode 9 "$program" "$image" parity
fi
have profile ncu && step profile 60 profile.csv ncu --csv --launch-count 40 \
    --metrics sm__inst_executed.sum,sm__issue_active.avg.pct_of_peak_sustained_active,dram__throughput.avg.pct_of_peak_sustained_elapsed \
    "$program" "$image" parity
cat "$out/steps.csv"
exit $bad
