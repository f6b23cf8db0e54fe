#!/bin/bash
# A table whose rows need each other, as Slurm job arrays that wait for one another:
#   assets/slurm_table.sh TABLE.yaml OUT [-p NAME VALUE ...] [-- OPTIONS OF SBATCH ...]
#   assets/slurm_table.sh assets/coclr.yaml runs/paper -p data /data/UCF101 -p epochs 0 -- --account=lab --time=48:00:00
# Rows that need the same rows are one array (slurm_array.sh). It waits with afterok for exactly these tasks, so a row that
# fails stops only those that need it. Rows that are complete are left out: the same call submits the rest.
set -euo pipefail
table=${1:?a table of notebook runs} out=${2:?a folder for the rows}
shift 2
settings=()
while [ $# -gt 0 ] && [ "$1" != -- ]; do settings+=("$1"); shift; done
shift $(($# > 0))
order=$("${VIDBENCH:-vidbench}" batch "$table" --out "$out" "${settings[@]}" --order)
declare -A task
while read -r rows needs; do
    [ -n "$rows" ] || continue
    after=
    for row in ${needs//,/ }; do after+=:${task[$row]}; done
    job=$(sbatch --parsable --array="$rows" ${after:+--dependency="afterok$after" --kill-on-invalid-dep=yes} "$@" \
        "$(dirname "$0")/slurm_array.sh" "$table" "$out" "${settings[@]}")
    job=${job%%;*} # --parsable adds the cluster's name after a semicolon
    for row in ${rows//,/ }; do task[$row]=${job}_$row; done
    echo "job $job: rows $rows${needs:+ after rows $needs}"
done <<< "$order"
