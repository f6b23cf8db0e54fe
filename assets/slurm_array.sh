#!/bin/bash
# A table of notebook runs as a Slurm job array, one task a row:
#   sbatch --array=0-5 assets/slurm_array.sh TABLE.yaml [OUT [OPTIONS OF vidbench batch]]
# If rows need each other, slurm_table.sh submits the arrays in their order. `vidbench slurm TABLE.yaml` prints this script
# for a table. Options of sbatch replace the lines below, such as --gpus-per-node=4 --cpus-per-task=32 --time=2-00:00:00
# --account=NAME --partition=NAME.
# `vidbench batch TABLE.yaml --list` shows the rows with their numbers and, later, how they ended.
#SBATCH --job-name=vidbench
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=8
#SBATCH --gpus-per-node=1
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --signal=B:USR1@120
#SBATCH --open-mode=append
#SBATCH --output=vidbench-%A_%a.log

# A stop (pre-emption, scancel) reaches the row, which saves itself and ends with 130. After a pre-emption Slurm queues
# the task again because of --requeue; shortly before the time limit it sends USR1, and this script does so itself.
# Either way the row resumes from its checkpoint; a complete one ends at once.
table=${1:?a table of notebook runs}
out=${2:-}
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-${SLURM_CPUS_PER_TASK:-1}}
again=
"${VIDBENCH:-vidbench}" batch "$table" ${out:+--out "$out"} --row "${SLURM_ARRAY_TASK_ID:?submit with --array}" "${@:3}" &
row=$!
trap 'kill -TERM "$row"' TERM INT
trap 'again=yes; kill -TERM "$row"' USR1
# A signal ends `wait` early, with more than 128.
while wait "$row"; code=$?; [ "$code" -gt 128 ] && kill -0 "$row" 2>/dev/null; do :; done
if [ -n "$again" ] && [ "$code" -eq 130 ]; then
    scontrol requeue "${SLURM_ARRAY_JOB_ID}_${SLURM_ARRAY_TASK_ID}"
fi
exit "$code"
