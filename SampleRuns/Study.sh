#!/usr/bin/env bash
# What DiVA's heads add on photographs: margin loss alone, as many heads by margin loss alone, and
# DiVA with and without decorrelation, over seeds, on the CPU.
#
#     bash SampleRuns/Study.sh <datapath> [stage ...]
#
# The stages: tuning seeds longer parts selfsimilarity omniglot, by default all.
# <datapath> holds grocery/ (the Grocery Store Dataset in the layout of CUB200), grocery_shops/ (the
# same images with a table.csv), omniglot/, and tf_efficientnet_lite0.pth. Called again, it goes on
# where it stopped. Each finished run becomes rows of tests/benchmarks/study.csv, of which `python
# tests/benchmarks/study.py tables` makes tables. PYTHON names another interpreter than `python`,
# RESULTS another folder for the runs than Training_Results/Study, JOBS how many train at a time
# (2), each on one thread, on which the rounding depends.
set -euo pipefail

if [ $# -lt 1 ]; then
    echo "usage: bash $0 <folder of grocery/, grocery_shops/, omniglot/ and weights> [stages]" >&2
    exit 2
fi
absolute() { case "$1" in /*) echo "$1" ;; *) echo "$PWD/$1" ;; esac; }
datapath=$(absolute "$1")
shift
STAGES="tuning seeds longer parts selfsimilarity omniglot"
if [ $# = 0 ]; then set -- $STAGES; fi
if [ -n "${RESULTS:-}" ]; then RESULTS=$(absolute "$RESULTS"); fi
CDPATH= cd "$(dirname "$0")/.."
RESULTS=${RESULTS:-$PWD/Training_Results/Study} JOBS=${JOBS:-2}
export OMP_NUM_THREADS=1
python() { command "${PYTHON:-python}" "$@"; }

# Chosen by the stage `tuning` on the first of four folds of the training classes, never on test.
EPOCHS=4 LR=0.00003 RHO=1000 ALPHA=0.1

begun() {       # the run called $1 that has finished an epoch
    for folder in "$1" "$1"_*; do
        if [ -e "$folder/checkpoint_last.pth.tar" ]; then echo "$folder"; return; fi
    done
}

finished() { grep -q "^$1,$2,$3," tests/benchmarks/study.csv 2> /dev/null; }

# run <stage> <dataset> <group> <seed> <flags ...>: waits for a free core, then has it trained.
run() {
    if [ $running = "$JOBS" ]; then wait_for_one; fi
    train "$@" &
    running=$((running + 1))
}
running=0
wait_for_one() { wait -n; running=$((running - 1)); }
# The script's end, Ctrl-C and the failure of a run stop the others, which keep their whole epochs.
set -m      # a process group for each run
trap 'for group in $(jobs -p); do kill -- "-$group" 2> /dev/null || true; done; wait' EXIT

# train <as run>: trains it, or goes on, unless it is finished.
train() {
    local stage=$1 dataset=$2 group=$3 seed=$4
    local name=$RESULTS/$dataset/${group}_s$seed
    local folder=$(begun "$name")
    shift 4
    if [ ! -e "$folder/training_summary.txt" ]; then
        if [ -n "$folder" ]; then
            python diva_main.py --resume "$folder"
        else
            python diva_main.py --dataset "$dataset" --source_path "$datapath" --group "$group" \
                --seed "$seed" --save_path "$RESULTS" --device cpu --kernels 0 --cache ram \
                --channels_last --plots none --embed_dim 128 --samples_per_class 4 \
                --evaluation_metrics e_recall@1 mAP_r nmi --storage_metrics mAP_r "$@"
        fi
    elif finished "$stage" "$group" "$seed"; then
        return
    fi
    folder=$(begun "$name")
    python tests/benchmarks/study.py add "${folder:-$name}" --stage "$stage" --shops "$datapath"
}

# photographs <stage> <group> <seed> <flags ...>
photographs() {
    local stage=$1 group=$2 seed=$3
    shift 3
    run "$stage" grocery "$group" "$seed" "${NETWORK[@]}" --bs 100 --lr $LR --fc_lr 0.001 \
        --n_epochs $EPOCHS --evaluate_every $EPOCHS "$@"
}
# characters <group> <seed> <flags ...>
characters() {
    local group=$1 seed=$2
    shift 2
    run omniglot omniglot "$group" "$seed" --arch resnet18_normalize --not_pretrained \
        --crop_size 40 --augmentation red --bs 64 --lr 0.001 --n_epochs 8 --evaluate_every 8 "$@"
}
NETWORK=(--arch timm:tf_efficientnet_lite0_frozen_normalize
    --weights_path "$datapath/tf_efficientnet_lite0.pth" --crop_size 96)

# Heads of 128 dimensions each, by themselves and combined.
FOUR="discriminative selfsimilarity shared intra"
ENSEMBLE="discriminative ensemble_1 ensemble_2 ensemble_3"
margin() { photographs "$@" --diva_features discriminative --embed_dim 512; }
# The published weights, equal ones, and half as much for the auxiliary heads.
combined() { local IFS=_; echo "all Combined_$*-1-1-1-1 Combined_$*-1-0.5-0.5-0.5"; }
ensemble() {
    photographs "$@" --diva_features $ENSEMBLE --evaltypes $(combined $ENSEMBLE) $ENSEMBLE
}
diva() { photographs "$@" --diva_features $FOUR --evaltypes $(combined $FOUR) $FOUR; }
SELF="--diva_moco_temperature 0.1 --diva_moco_n_key_batches 20"
alphas() { echo "--diva_alpha_ssl $1 --diva_alpha_shared $1 --diva_alpha_intra $1"; }
ALPHAS=$(alphas $ALPHA)
LONGER="--n_epochs 8 --evaluate_every 8"

for stage in "$@"; do
    case $stage in
        tuning)
            fold="--val_folds 4 --val_fold 0 --evaluate_every 2"
            for lr in 0.00003 0.0001 0.0003; do
                margin tuning margin_lr$lr 0 $fold --lr $lr --n_epochs 8
            done
            for rho in 0 10 100 1000; do
                diva tuning diva_rho$rho 0 $fold $SELF $(alphas 0.3) --diva_rho_decorrelation $rho
            done
            for alpha in 0.1 1; do      # 0.3: above
                diva tuning diva_alpha$alpha 0 $fold $SELF $(alphas $alpha) \
                    --diva_rho_decorrelation 100
            done
            diva tuning diva_epochs8 0 $fold $SELF $ALPHAS --diva_rho_decorrelation $RHO \
                --n_epochs 8 ;;
        seeds)
            if ! finished seeds untrained 0; then
                python tests/benchmarks/study.py untrained --dataset grocery \
                    --source_path "$datapath" "${NETWORK[@]}" --device cpu --kernels 0
            fi
            for seed in 0 1 2 3 4; do
                margin seeds margin $seed
                ensemble seeds ensemble $seed
                diva seeds diva_correlated $seed $SELF $ALPHAS --diva_rho_decorrelation 0
                diva seeds diva $seed $SELF $ALPHAS --diva_rho_decorrelation $RHO
            done ;;
        longer)     # on the fold, DiVA gained until the seventh epoch, margin loss to the third
            for seed in 0 1 2 3 4; do
                diva longer diva_long $seed $SELF $ALPHAS --diva_rho_decorrelation $RHO $LONGER
                ensemble longer ensemble_long $seed $LONGER
                margin longer margin_long $seed $LONGER
            done
            for seed in 0 1 2; do
                margin longer multisimilarity_long $seed --loss pml:MultiSimilarityLoss $LONGER
            done ;;
        parts)
            for seed in 0 1 2; do
                for feature in selfsimilarity shared intra; do
                    photographs parts "discriminative_$feature" $seed $SELF $ALPHAS \
                        --diva_features discriminative $feature --embed_dim 256 \
                        --evaltypes all discriminative $feature \
                        --diva_decorrelations $feature-discriminative --diva_rho_decorrelation $RHO
                done
                margin parts proxy_anchor $seed --loss pml:ProxyAnchorLoss
                margin parts multisimilarity $seed --loss pml:MultiSimilarityLoss
            done ;;
        selfsimilarity)
            for temperature in 0.01 0.1; do
                for dance in released fixed weighted; do
                    diva selfsimilarity ${dance}_t$temperature 0 $ALPHAS --diva_dance $dance \
                        --diva_moco_temperature $temperature --diva_moco_n_key_batches 20 \
                        --diva_rho_decorrelation $RHO
                done
                diva selfsimilarity moco_t$temperature 0 $ALPHAS --diva_ssl moco \
                    --diva_moco_temperature $temperature --diva_moco_n_key_batches 20 \
                    --diva_rho_decorrelation $RHO
            done
            for seed in 1 2; do     # of the best
                diva selfsimilarity moco_t0.1 $seed $SELF $ALPHAS --diva_ssl moco \
                    --diva_rho_decorrelation $RHO
            done ;;
        omniglot)
            heads="--diva_features $FOUR --embed_dim 64 --evaltypes $(combined $FOUR) $FOUR $ALPHAS
                --diva_moco_temperature 0.1 --diva_moco_n_key_batches 10"
            for seed in 0 1; do
                characters omniglot_margin $seed --diva_features discriminative --embed_dim 256
                characters omniglot_diva_correlated $seed $heads --diva_rho_decorrelation 0
                characters omniglot_diva $seed $heads --diva_rho_decorrelation $RHO
            done ;;
        *)
            echo "unknown stage '$stage': $STAGES" >&2
            exit 2 ;;
    esac
    while [ $running != 0 ]; do wait_for_one; done
done
