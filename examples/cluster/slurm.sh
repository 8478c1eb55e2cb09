#!/bin/bash
# Train on several machines by Slurm: one torchrun on each; they meet on the first.
#
#     sbatch --nodes=2 slurm.sh train.py --epochs 5 --with distributed:strategy=fsdp2
#
# What follows the name of this file is what `callboard fit` is given.
#SBATCH --job-name=callboard
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --signal=TERM@120
set -euo pipefail

hosts=$(scontrol show hostnames "$SLURM_JOB_NODELIST")
first=${hosts%%$'\n'*}
# Two jobs that share a machine must not meet at one port.
port=$((20000 + SLURM_JOB_ID % 10000))

srun torchrun \
    --nnodes "$SLURM_JOB_NUM_NODES" \
    --nproc-per-node "$SLURM_GPUS_ON_NODE" \
    --rdzv-backend c10d \
    --rdzv-endpoint "$first:$port" \
    --rdzv-id "$SLURM_JOB_ID" \
    --max-restarts 3 \
    -m callboard fit "$@"
