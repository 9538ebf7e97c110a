#!/usr/bin/env bash
# DiVA on CUB200-2011 as published.
#
#     bash SampleRuns/CUB200.sh <datapath> [flags of diva_main.py, which win over those below]
#
# <datapath> is the folder that holds cub200/. PYTHON names another interpreter than `python`.
set -euo pipefail
if [ $# -lt 1 ]; then
    echo "usage: bash $0 <folder that holds cub200/> [flags of diva_main.py]" >&2
    exit 2
fi
case "$1" in /*) datapath=$1 ;; *) datapath=$PWD/$1 ;; esac
CDPATH= cd "$(dirname "$0")/.."
python() { command "${PYTHON:-python}" "$@"; }

# ResNet50
python diva_main.py --dataset cub200 --source_path "$datapath" \
    --log_online --project DiVA_SampleRuns --group CUB_DiVA-R50-512 --seed 0 \
    --arch resnet50_frozen_normalize --embed_dim 128 \
    --n_epochs 350 --tau 55 --gamma 0.2 \
    --loss margin --batch_mining distance --samples_per_class 2 \
    --diva_features discriminative selfsimilarity shared intra --evaltypes all \
    --diva_ssl fast_moco --diva_sharing random \
    --diva_alpha_ssl 0.3 --diva_alpha_shared 0.3 --diva_alpha_intra 0.3 \
    --diva_rho_decorrelation 1500 \
    --diva_moco_temperature 0.01 --diva_moco_n_key_batches 30 \
    "${@:2}"

# BN-Inception
python diva_main.py --dataset cub200 --source_path "$datapath" \
    --log_online --project DiVA_SampleRuns --group CUB_DiVA-IBN-512 --seed 0 \
    --arch bninception_normalize --embed_dim 128 \
    --n_epochs 350 --tau 70 --gamma 0.3 \
    --loss margin --batch_mining distance --samples_per_class 2 \
    --diva_features discriminative selfsimilarity shared intra --evaltypes all \
    --diva_ssl fast_moco --diva_sharing random \
    --diva_alpha_ssl 0.1 --diva_alpha_shared 0.1 --diva_alpha_intra 0.1 \
    --diva_rho_decorrelation 300 \
    --diva_moco_temperature 0.01 --diva_moco_n_key_batches 30 \
    "${@:2}"
