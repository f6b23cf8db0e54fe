#!/bin/bash
# ARID's excerpt and Weizmann's, by vidbench's own commands: scan, flow, supervised training on RGB,
# on differences of frames and on flow, CoCLR with retrieval and probe. Run it on an idle machine;
# the same call resumes. The page assets/docs/real-clips.md explains it.
#   DATA: the folder of arid6 and weizmann4. RUNS: where all is written. SEEDS: training seeds of the
#   supervised arms. COCLR_SEEDS: those of CoCLR, whose four or more stages cost most of the time.
set -euo pipefail
DATA=${DATA:?the folder that contains arid6 and weizmann4}
RUNS=${RUNS:-runs/real}
SEEDS=${SEEDS:-1 2 3}
COCLR_SEEDS=${COCLR_SEEDS:-1}
VIDBENCH=${VIDBENCH:-.venv/bin/python -m vidbench}

for set in arid6 weizmann4; do
  $VIDBENCH scan "$DATA/$set" --out "$RUNS/$set/scan"
  $VIDBENCH flow "$DATA/$set" --method tvl1 --size 64 --out "$RUNS/$set/flow-64"
done

# All seeds of an arm on one set. ARID's own split has other scenes in its test videos; Weizmann leaves
# one of nine actors out.
arm() {
  local set=$1 seeds=$2 folds=source:9 epochs=100 seed
  shift 2
  # 9,600 clips of 90 training videos; of Weizmann's 32 the preset's own number of epochs
  if [ "$set" = arid6 ]; then folds=split epochs=106; fi
  for seed in $seeds; do
    $VIDBENCH train "$DATA/$set" --out "$RUNS" --folds "$folds" --epochs "$epochs" --seed "$seed" \
      --method "$@"
  done
}

# The supervised arms come first: they are complete if the call is interrupted later.
all() {
  arm "$1" "$SEEDS" classify --preset few
  arm "$1" "$SEEDS" classify --preset few_difference
  arm "$1" "$SEEDS" classify --preset few -c stream flow
  arm "$1" "$COCLR_SEEDS" coclr --preset few
}

# one set on each of two cores
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
all arid6 &
other=$!
trap 'kill "$other" 2>/dev/null || true' EXIT
all weizmann4
wait "$other"
