#!/usr/bin/env bash
# DiVA on CUB200-2011 on two machines of four GPUs each, by Slurm. Not run by its authors: adapt the
# first lines to your cluster.
#
#     sbatch SampleRuns/Slurm.sh <folder that holds cub200/> [flags of diva_main.py]
#
# All machines must see the folders of data and of results. When the time runs out, or another job
# takes the machines, the run stops after its last whole epoch; the job is queued again and goes on.
#SBATCH --job-name=diva
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=32
#SBATCH --time=12:00:00
#SBATCH --requeue
#SBATCH --signal=B:TERM@120
#SBATCH --open-mode=append
set -uo pipefail
if [ $# -lt 1 ]; then
    echo "usage: sbatch $0 <folder that holds cub200/> [flags of diva_main.py]" >&2
    exit 2
fi
name="CUB_DiVA-R50-512_${SLURM_JOB_ID:?start this by sbatch}"
case "$1" in /*) datapath=$1 ;; *) datapath=$PWD/$1 ;; esac
folder="$PWD/Training_Results/cub200/$name"
if [ -e "$folder/options.json" ]; then
    set -- --resume "$folder"
else
    set -- --dataset cub200 --source_path "$datapath" --savename "$name" \
        --save_path "$PWD/Training_Results" --seed 0 --bs 112 --arch resnet50_frozen_normalize --embed_dim 128 \
        --n_epochs 350 --tau 55 --gamma 0.2 --loss margin --batch_mining distance \
        --diva_features discriminative selfsimilarity shared intra --evaltypes all \
        --diva_alpha_ssl 0.3 --diva_alpha_shared 0.3 --diva_alpha_intra 0.3 \
        --diva_rho_decorrelation 1500 --diva_moco_temperature 0.01 --diva_moco_n_key_batches 30 \
        "${@:2}"
fi

stopped=
trap 'stopped=yes; kill -TERM "$job"' TERM
first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
srun torchrun --nnodes "$SLURM_JOB_NUM_NODES" --nproc_per_node 4 \
    --rdzv_backend c10d --rdzv_id "$SLURM_JOB_ID" --rdzv_endpoint "$first:29500" \
    diva_main.py "$@" &
job=$!
wait "$job"
status=$?
if [ "$stopped" ]; then
    wait "$job"     # until it has written what it holds
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
