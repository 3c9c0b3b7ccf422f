#!/bin/bash
#SBATCH --job-name=nanogpkant-ray
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=32
#SBATCH --requeue
#SBATCH --open-mode=append

# Ray on all nodes of the job, and a study on Ray. Submit from a folder on a file system that all nodes
# share: sbatch docs/ray_slurm.sh experiments/scaling.yaml. Requeued, it goes on where it was.
set -euo pipefail
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)

srun --nodes=1 --ntasks=1 -w "$head" ray start --head --port=6379 --block &
sleep 20
srun --nodes=$((SLURM_NNODES - 1)) --ntasks=$((SLURM_NNODES - 1)) --exclude="$head" \
    ray start --address="$head:6379" --block &
sleep 20
srun --overlap --nodes=1 --ntasks=1 -w "$head" \
    nanogpkant scale "$1" --launcher ray --ray_address "$head:6379" --jobs "${JOBS:-16}"
