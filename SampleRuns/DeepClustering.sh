#!/usr/bin/env bash
# Deep clustering beside the discriminative feature, on CUB200-2011.
#
#     bash SampleRuns/DeepClustering.sh <datapath> [flags of diva_main.py, which win over those below]
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

python diva_main.py --dataset cub200 --source_path "$datapath" \
    --log_online --project DiVA_Experiments --group CUB_DC-IBN-512 --seed 0 \
    --arch bninception_normalize --embed_dim 256 --bs 104 --n_epochs 200 \
    --loss margin --batch_mining distance --samples_per_class 2 \
    --diva_features discriminative dc --evaltypes all \
    --diva_ssl fast_moco --diva_sharing random --diva_moco_temperature 0.01 \
    --diva_dc_update_f 2 --diva_dc_ncluster 300 --diva_rho_decorrelation 500 \
    "${@:2}"
