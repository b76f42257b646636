#!/usr/bin/env bash
# chisep run on a SLURM cluster, one task of an array for each participant of a BIDS dataset:
#
#   export CHISEP_BIDS=/data/study CHISEP_OUTPUT=/data/maps
#   bash slurm_array.sh                                          # lists the participants and says what to submit
#   SLURM_ARRAY_TASK_ID=1 bash slurm_array.sh                    # the first of them here, without SLURM
#   sbatch --array=1-12 slurm_array.sh                           # twelve, on CPUs
#   sbatch --array=1-12%4 --gres=gpu:1 slurm_array.sh            # four at once, a GPU each
#   sbatch --array=1-12 slurm_array.sh --background vsharp       # options of chisep run come last
#
# CHISEP_PARTICIPANTS="01 07"   these alone; all if it is not set
# CHISEP="apptainer run --nv chisep.sif"   another way to call chisep; "chisep" if it is not set
#
# Replace time and memory below by what your first participant took: wall_time_s and peak_memory_gib in its run.json.
#SBATCH --job-name=chisep
#SBATCH --cpus-per-task=4
#SBATCH --mem=16G
#SBATCH --time=02:00:00
#SBATCH --output=chisep-%A_%a.log
set -euo pipefail

stop() {
    echo "chisep: $1" >&2
    exit 2
}

[ -n "${CHISEP_BIDS:-}" ] || stop "there is no dataset; set CHISEP_BIDS to the folder of a BIDS dataset"
[ -n "${CHISEP_OUTPUT:-}" ] || stop "there is no output; set CHISEP_OUTPUT to the folder of the derivative"
[ -d "$CHISEP_BIDS" ] || stop "there is no folder $CHISEP_BIDS; check CHISEP_BIDS"

find_participants() {
    local LC_ALL=C folder # the same order on all nodes
    for folder in "$CHISEP_BIDS"/sub-*/; do
        [ ! -d "$folder" ] || participants+=("$(basename "$folder")")
    done
}

participants=()
if [ -n "${CHISEP_PARTICIPANTS:-}" ]; then
    read -r -a participants <<<"$CHISEP_PARTICIPANTS"
else
    find_participants
fi
count=${#participants[@]}
[ "$count" -gt 0 ] || stop "$CHISEP_BIDS has no folders sub-*; check CHISEP_BIDS"

task="${SLURM_ARRAY_TASK_ID:-}"
if [ -z "$task" ]; then
    printf '%s\n' "${participants[@]}"
    echo "$count participants; submit them with: sbatch --array=1-$count slurm_array.sh"
    exit
fi
[[ "$task" =~ ^[1-9][0-9]*$ && "$task" -le "$count" ]] || stop "task $task has no participant; use --array=1-$count"

if [ -n "${SLURM_CPUS_PER_TASK:-}" ]; then # torch and ITK would take every core of the node
    export OMP_NUM_THREADS="$SLURM_CPUS_PER_TASK" ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS="$SLURM_CPUS_PER_TASK"
fi
participant="${participants[task - 1]#sub-}"
read -r -a chisep <<<"${CHISEP:-chisep}"
command -v "${chisep[0]}" >/dev/null || stop "there is no ${chisep[0]} here; activate chisep's environment, or set CHISEP"
echo "task $task of $count: sub-$participant on $HOSTNAME"
exec "${chisep[@]}" run "$CHISEP_BIDS" --output "$CHISEP_OUTPUT" --participant_label "$participant" --verbose "$@"
