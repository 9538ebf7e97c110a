#!/usr/bin/env bash
# Four-feature DiVA on rendered characters (`glyphs`), from scratch, on the CPU, in minutes.
#
#     bash SampleRuns/Quickstart.sh [flags of diva_main.py, which win over those below]
#
# Data go to Datasets/, results to Training_Results/. PYTHON names another interpreter than `python`.
set -euo pipefail
CDPATH= cd "$(dirname "$0")/.."
python() { command "${PYTHON:-python}" "$@"; }

python diva_main.py --dataset glyphs --source_path Datasets --save_path Training_Results \
    --group Quickstart --seed 0 --device cpu --kernels 0 --plots end \
    --arch resnet18_normalize --not_pretrained --embed_dim 64 --crop_size 40 --augmentation red \
    --n_epochs 6 --bs 64 --lr 0.001 \
    --loss margin --batch_mining distance --samples_per_class 4 \
    --diva_features discriminative selfsimilarity shared intra --evaltypes all \
    --diva_ssl fast_moco --diva_sharing random \
    --diva_alpha_ssl 0.3 --diva_alpha_shared 0.3 --diva_alpha_intra 0.3 \
    --diva_rho_decorrelation 100 \
    --diva_moco_temperature 0.1 --diva_moco_n_key_batches 10 \
    --evaluation_metrics e_recall@1 e_recall@2 e_recall@4 nmi mAP_c \
    "$@"
