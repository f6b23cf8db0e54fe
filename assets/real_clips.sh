#!/bin/bash
# ARID's excerpt and Weizmann's, by vidbench's own commands: scan, flow, supervised training on RGB,
# on differences of frames and on flow, CoCLR with retrieval and probe. Run it on an idle machine;
# the same call resumes. The page assets/docs/real-clips.md explains it.
#   DATA: the folder of arid6 and weizmann4. RUNS: where all is written. SEEDS: training seeds.
set -euo pipefail
DATA=${DATA:?the folder that contains arid6 and weizmann4}
RUNS=${RUNS:-runs/real}
SEEDS=${SEEDS:-1 2 3 4 5}
VIDBENCH=${VIDBENCH:-.venv/bin/python -m vidbench}

for set in arid6 weizmann4; do
  $VIDBENCH scan "$DATA/$set" --out "$RUNS/$set/scan"
  $VIDBENCH flow "$DATA/$set" --method tvl1 --size 64 --out "$RUNS/$set/flow-64"
done

# ARID's own split has other scenes in its test videos; Weizmann leaves one of nine actors out.
for seed in $SEEDS; do
  for set in arid6 weizmann4; do
    # 9,600 clips a stage: of 90 training videos, and of 32
    if [ "$set" = arid6 ]; then folds=split epochs=106; else folds=source:9 epochs=300; fi
    for arm in "classify few" "classify few_difference" "classify few -c stream flow" "coclr few"; do
      # shellcheck disable=SC2086  # an arm is several words
      $VIDBENCH train "$DATA/$set" --out "$RUNS" --folds "$folds" --epochs "$epochs" --seed "$seed" \
        --method ${arm/ / --preset }
    done
  done
done
