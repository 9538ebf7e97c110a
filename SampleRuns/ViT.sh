#!/usr/bin/env bash
# Four-feature DiVA on a ViT-S/16 of DINO, with the recipe of hyperbolic ViTs. Not run by its
# authors: it wants a large GPU, and timm with its weights (or --weights_path).
#
#     bash SampleRuns/ViT.sh <datapath> [datasets; all four if none] [flags of diva_main.py, which
#         win over those below]
#
# <datapath> is the folder that holds cub200/, cars196/, online_products/ and in-shop/. PYTHON names
# another interpreter than `python`.
#
# The recipe is that of "Hyperbolic Vision Transformers: Combining Improvements in Metric Learning"
# (Ermolov et al., CVPR 2022, arXiv 2203.10833) for DINO, as its code has it (README.md and train.py
# of htdt/hyp_metric on GitHub):
#   --optim adamw --lr 1e-5     also for the heads; --decay 0.01 is torch's own for AdamW
#   --scheduler none            and no warm-up
#   --clip_grad 3
#   --precision bf16            there fp16, by apex's O2
#   --bs 900                    each class once (class_random_unique): 9 images of each on CUB200
#                               and, with 98 classes and 882 images, CARS196; 2 on SOP and In-Shop
#   --resize                    in evaluation: 256 on CUB200, 224 on the others
#   --n_epochs                  for 50, 300, 5,000 and 3,200 steps: its 50, 300, 200 and 400 epochs
#                               are of 1, 1, 25 and 8 steps, since one takes each class once; those
#                               here are of 6, 9, 66 and 28
# What differs: DiVA's losses in place of the cross-entropy of pairs in hyperbolic space, and 4 x
# 128 dimensions in place of 128; training crops of 8 % of an image or more, there of 20 %; heads
# that start as torch's linear layers, there orthogonal; a patch embedding that learns, there fixed.
#
# --diva_alpha_* and --diva_rho_decorrelation are those of DiVA's ResNet50 (In-Shop: of SOP), and
# the queues hold about as many keys (4 x 900 for 30 x 112). The temperature is 0.1, since at 0.01
# self-similarity teaches next to nothing. --grad_cache_chunk 300 keeps the graph of 300 images,
# some 10 GB; 0 keeps that of all, some 30 GB, and is faster.
set -euo pipefail
if [ $# -lt 1 ]; then
    echo "usage: bash $0 <folder of the datasets> [datasets] [flags of diva_main.py]" >&2
    exit 2
fi
case "$1" in /*) datapath=$1 ;; *) datapath=$PWD/$1 ;; esac
CDPATH= cd "$(dirname "$0")/.."
python() { command "${PYTHON:-python}" "$@"; }
shift
datasets=()
while [[ "${1:-}" =~ ^(cub200|cars196|online_products|in-shop)$ ]]; do
    datasets+=("$1")
    shift
done
if [ ${#datasets[@]} = 0 ]; then datasets=(cub200 cars196 online_products in-shop); fi

for dataset in "${datasets[@]}"; do
    case "$dataset" in
        cub200) name=CUB alpha=0.3 rho=1500 keys=4
            recipe=(--bs 900 --samples_per_class 9 --resize 256 --n_epochs 9) ;;
        cars196) name=CAR alpha=0.15 rho=100 keys=4
            recipe=(--bs 882 --samples_per_class 9 --resize 224 --n_epochs 34) ;;
        online_products) name=SOP alpha=0.2 rho=150 keys=9
            recipe=(--bs 900 --samples_per_class 2 --resize 224 --n_epochs 76 --evaluate_every 5) ;;
        in-shop) name=INS alpha=0.2 rho=150 keys=9
            recipe=(--bs 900 --samples_per_class 2 --resize 224 --n_epochs 115 --evaluate_every 5)
    esac
    python diva_main.py --dataset "$dataset" --source_path "$datapath" \
        --log_online --project DiVA_SampleRuns --group "${name}_DiVA-ViTS-512" --seed 0 \
        --arch timm:vit_small_patch16_224.dino_normalize --embed_dim 128 \
        --optim adamw --lr 1e-5 --decay 0.01 --scheduler none --clip_grad 3 \
        --precision bf16 --grad_cache_chunk 300 --data_sampler class_random_unique "${recipe[@]}" \
        --loss margin --batch_mining distance \
        --diva_features discriminative selfsimilarity shared intra --evaltypes all \
        --diva_ssl fast_moco --diva_sharing random \
        --diva_alpha_ssl "$alpha" --diva_alpha_shared "$alpha" --diva_alpha_intra "$alpha" \
        --diva_rho_decorrelation "$rho" \
        --diva_moco_temperature 0.1 --diva_moco_n_key_batches "$keys" \
        "$@"
done
