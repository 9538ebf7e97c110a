#!/usr/bin/env bash
# The protocol of "A Metric Learning Reality Check" (Musgrave et al. 2020, arXiv 2003.08505): four
# runs, each of which validates on another quarter of the training classes and keeps its best epoch
# by MAP@R there; on the test classes, the mean of the four 128-dimensional embeddings ("separate")
# and the four side by side, 512 dimensions ("concatenated").
#
#     bash SampleRuns/RealityCheck.sh <datapath> [dataset; cub200 if none] [flags of diva_main.py,
#         which win over those below, other than --save_path, --savename and those of the folds]
#
# <datapath> is the folder that holds <dataset>/. Called again after an interrupt, it resumes the
# runs that are there. PYTHON names another interpreter than `python`, RESULTS another folder for
# the runs than Training_Results/RealityCheck, which other flags or another seed need.
#
# BN-Inception with frozen BatchNorm, unit-length embeddings, batches of 8 classes x 4 images and
# weight decay are those of the authors' code (github.com/KevinMusgrave/powerful-benchmarker). The
# loss is their "Multi Similarity + Miner", with the hyperparameters that they found for it
# (docs/papers/mlrc.md there); other losses want their own, by the best mean MAP@R of the four
# validations. Deviations: Adam at 1e-5, since their RMSprop at 1e-6 with momentum 0.9 makes steps
# of about that size; crops from 8 % of an image on (theirs from 16 %); a fixed number of epochs,
# where theirs stop without progress; no repetition (theirs: ten).
set -euo pipefail
absolute() { case "$1" in /*) echo "$1" ;; *) echo "$PWD/$1" ;; esac; }
if [ $# -lt 1 ]; then
    echo "usage: bash $0 <folder that holds the dataset> [dataset] [flags of diva_main.py]" >&2
    exit 2
fi
datapath=$(absolute "$1") dataset=cub200
shift
if [[ "${1:-}" =~ ^[^-] ]]; then
    dataset=$1
    shift
fi
if [ -n "${RESULTS:-}" ]; then RESULTS=$(absolute "$RESULTS"); fi
CDPATH= cd "$(dirname "$0")/.."
RESULTS=${RESULTS:-$PWD/Training_Results/RealityCheck}
python() { command "${PYTHON:-python}" "$@"; }

case "$dataset" in      # alpha, beta, base and epsilon, in their words
    cars196) found=(7.49 47.99 0.63 0.72) ;;
    online_products) found=(15.94 156.61 0.72 0.34) ;;
    *) found=(17.97 75.66 0.77 0.39) ;;     # those of CUB200
esac
begun() {       # the run of the fold $1 that has finished an epoch
    for folder in "$RESULTS/$dataset/fold$1" "$RESULTS/$dataset/fold$1"_*; do
        if [ -e "$folder/checkpoint_last.pth.tar" ]; then echo "$folder"; return; fi
    done
}
for fold in 0 1 2 3; do
    folder=$(begun "$fold")
    if [ -n "$folder" ]; then
        python diva_main.py --resume "$folder" "$@"
        continue
    fi
    python diva_main.py --dataset "$dataset" --source_path "$datapath" --group RealityCheck \
        --arch bninception_frozen_normalize --embed_dim 128 \
        --n_epochs 100 --lr 0.00001 --decay 0.0001 \
        --bs 32 --data_sampler class_random_unique --samples_per_class 4 \
        --loss multisimilarity --loss_multisimilarity_pos_weight "${found[0]}" \
        --loss_multisimilarity_neg_weight "${found[1]}" \
        --loss_multisimilarity_thresh "${found[2]}" --loss_multisimilarity_margin "${found[3]}" \
        --storage_metrics mAP_r --evaluation_metrics e_recall@1 r_precision mAP_r \
        "$@" --val_folds 4 --val_fold "$fold" --save_path "$RESULTS" --savename "fold$fold"
done
python -m evaluation.ensemble "$RESULTS/$dataset"
