#!/usr/bin/env bash
# The published runs over several seeds, and the paper's table beside ours.
#
#     bash SampleRuns/Reproduce.sh <datapath> [seeds; 0 to 4 if none] [flags of diva_main.py,
#         other than --seed and --save_path]
#
# <datapath> is the folder that holds cub200/, cars196/ and online_products/. Called again after an
# interrupt, it resumes the runs that are there. PYTHON names another interpreter than `python`,
# RESULTS another folder for the runs than Training_Results/Reproduce.
set -euo pipefail

absolute() { case "$1" in /*) echo "$1" ;; *) echo "$PWD/$1" ;; esac; }

# The published runs' scripts call this one as their PYTHON, so that each run can be resumed.
if [ "${1:-}" = diva_main.py ]; then
    for word in "$@"; do
        case "${flag:-}" in
            --dataset) dataset=$word ;;
            --group) group=$word ;;
            --seed) seed=$word ;;
        esac
        flag=$word
    done
    for folder in "$RESULTS/$dataset/${group}_s$seed" "$RESULTS/$dataset/${group}_s${seed}"_*; do
        if [ -e "$folder/checkpoint_last.pth.tar" ]; then
            exec "$INTERPRETER" diva_main.py --resume "$folder"
        fi
    done
    exec "$INTERPRETER" "$@" --save_path "$RESULTS"
fi

if [ $# -lt 1 ]; then
    echo "usage: bash $0 <folder of cub200/, cars196/ and online_products/> [seeds] [flags]" >&2
    exit 2
fi
datapath=$(absolute "$1")
if [ -n "${RESULTS:-}" ]; then RESULTS=$(absolute "$RESULTS"); fi
CDPATH= cd "$(dirname "$0")/.."
export RESULTS=${RESULTS:-$PWD/Training_Results/Reproduce} INTERPRETER=${PYTHON:-python}
shift
seeds=()
while [[ "${1:-}" =~ ^[0-9]+$ ]]; do
    seeds+=("$1")
    shift
done
if [ ${#seeds[@]} = 0 ]; then seeds=(0 1 2 3 4); fi
for seed in "${seeds[@]}"; do
    for script in CUB200 CARS196 SOP; do
        PYTHON=$PWD/SampleRuns/Reproduce.sh bash "SampleRuns/$script.sh" "$datapath" "$@" \
            --seed "$seed"
    done
done
"$INTERPRETER" -m evaluation.summarize "$RESULTS"
