#!/usr/bin/env bash
# DiVA on Stanford Online Products as published.
#
#     bash SampleRuns/SOP.sh <datapath> [flags of diva_main.py, which win over those below]
#
# <datapath> is the folder that holds online_products/. PYTHON names another interpreter than `python`.
set -euo pipefail
if [ $# -lt 1 ]; then
    echo "usage: bash $0 <folder that holds online_products/> [flags of diva_main.py]" >&2
    exit 2
fi
case "$1" in /*) datapath=$1 ;; *) datapath=$PWD/$1 ;; esac
CDPATH= cd "$(dirname "$0")/.."
python() { command "${PYTHON:-python}" "$@"; }

# ResNet50
python diva_main.py --dataset online_products --source_path "$datapath" \
    --log_online --project DiVA_SampleRuns --group SOP_DiVA-R50-512 --seed 0 \
    --arch resnet50_frozen_normalize --embed_dim 128 \
    --n_epochs 150 --tau 70 --gamma 0.3 \
    --loss margin --batch_mining distance --samples_per_class 2 \
    --diva_features discriminative selfsimilarity shared intra --evaltypes all \
    --diva_ssl fast_moco --diva_sharing random \
    --diva_alpha_ssl 0.2 --diva_alpha_shared 0.2 --diva_alpha_intra 0.2 \
    --diva_rho_decorrelation 150 \
    --diva_moco_temperature 0.01 --diva_moco_n_key_batches 70 \
    "${@:2}"

# BN-Inception
python diva_main.py --dataset online_products --source_path "$datapath" \
    --log_online --project DiVA_SampleRuns --group SOP_DiVA-IBN-512 --seed 0 \
    --arch bninception_normalize --embed_dim 128 \
    --n_epochs 150 --tau 80 --gamma 0.3 \
    --loss margin --batch_mining distance --samples_per_class 2 \
    --diva_features discriminative selfsimilarity shared intra --evaltypes all \
    --diva_ssl fast_moco --diva_sharing random \
    --diva_alpha_ssl 0.1 --diva_alpha_shared 0.1 --diva_alpha_intra 0.1 \
    --diva_rho_decorrelation 150 \
    --diva_moco_temperature 0.01 --diva_moco_n_key_batches 70 \
    "${@:2}"
