#!/bin/bash
# One notebook on several nodes, all processes training together:
#   sbatch --nodes=2 assets/slurm_nodes.sh notebooks/10_coclr_alone.ipynb --out runs/k400 -p data /data/k400 ...
# `vidbench slurm --nodes 2 NOTEBOOK` prints this script for a notebook; options of sbatch replace the lines below, such as
# --gpus-per-node=4 --cpus-per-task=32 --time=2-00:00:00 --account=NAME --partition=NAME.
# Each node runs the notebook and names its own copy after itself; all nodes share the disk on which they write. The first
# node evaluates and draws; the others end after the last training cell.
#SBATCH --job-name=vidbench
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=64
#SBATCH --gpus-per-node=8
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --signal=B:USR1@120
#SBATCH --open-mode=append
#SBATCH --output=vidbench-%j.log

# Slurm's pre-emption stops all nodes, which save themselves; shortly before the time limit this script does so itself and
# queues the job again. Either way training resumes from its checkpoint.
# The nodes prove to each other by a secret that they belong together. If their addresses are public, but only trusted users
# reach them, submit with VIDBENCH_TRUSTED_NETWORK=1.
export VIDBENCH_SECRET="${VIDBENCH_SECRET:-$(od -An -N32 -tx1 /dev/urandom | tr -d ' \n')}"
port=${VIDBENCH_PORT:-$((20000 + SLURM_JOB_ID % 12000))} # another one for each job on a node
first=$(scontrol show hostnames "${SLURM_JOB_NODELIST:?submit with sbatch}" | head -n 1)
again=
srun --kill-on-bad-exit=0 bash -c '[ "$SLURM_NODEID" = 0 ] || export VIDBENCH_TRAIN_ONLY=1
    exec "${VIDBENCH:-vidbench}" run "$@" --nnodes "$SLURM_NNODES" --node "node$SLURM_NODEID"' \
    node "$@" --endpoint "$first:$port" &
nodes=$!
trap 'kill -TERM "$nodes"' TERM INT
trap 'again=yes; kill -TERM "$nodes"' USR1
# A signal ends `wait` early, with more than 128.
while wait "$nodes"; code=$?; [ "$code" -gt 128 ] && kill -0 "$nodes" 2>/dev/null; do :; done
if [ -n "$again" ] && [ "$code" -eq 130 ]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
