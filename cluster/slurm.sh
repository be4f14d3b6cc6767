#!/usr/bin/env bash
# A study on nodes of a Slurm cluster: Ray's head on the first, workers on the others, the study on top; all end together.
#   sbatch --nodes=4 cluster/slurm.sh gpu-cluster --storage /scratch/murk --set data.path=/scratch/cars.parquet
# Activate the environment first, so that `python` and `ray` are those of requirements.lock on every node.
# Sent again after its time limit (or --requeue), the study goes on where it stopped.
#SBATCH --job-name=murk
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --gpus-per-node=4
#SBATCH --time=24:00:00
#SBATCH --signal=B:TERM@180
#SBATCH --open-mode=append
set -euo pipefail

if [ "$#" -lt 1 ]; then
    echo "usage: sbatch slurm.sh STUDY --storage SHARED_FOLDER [--set KEY=VALUE ...]" >&2
    exit 2
fi
: "${SLURM_JOB_ID:?slurm.sh runs inside a Slurm job; start it by sbatch}"
: "${SLURM_JOB_NODELIST:?slurm.sh runs inside a Slurm job; start it by sbatch}"
python=${MURK_PYTHON:-python}
ray=${MURK_RAY:-ray}
cpus=${SLURM_CPUS_PER_TASK:-1}
gpus=${SLURM_GPUS_ON_NODE:-0}
port=$((20000 + SLURM_JOB_ID % 20000))
temporary=/tmp/murk-ray-$SLURM_JOB_ID # short: Ray's sockets lie there, and their paths have a limit

# A token of this job alone, in a file of the user's that every node reads; Ray refuses everybody else on these nodes.
export RAY_AUTH_MODE=token RAY_USAGE_STATS_ENABLED=0 MLFLOW_DISABLE_TELEMETRY=true
RAY_AUTH_TOKEN_PATH=${MURK_TOKEN_DIR:-$HOME}/.murk-ray-token-$SLURM_JOB_ID
export RAY_AUTH_TOKEN_PATH
(umask 077 && "$python" -c 'import secrets; print(secrets.token_hex(32))' >"$RAY_AUTH_TOKEN_PATH")

study_pid=
# shellcheck disable=SC2329  # called by the trap
finish() {
    kill "${started[@]}" 2>/dev/null || true
    wait "${started[@]}" 2>/dev/null || true
    rm -f "$RAY_AUTH_TOKEN_PATH"
}
# shellcheck disable=SC2329  # called by the trap
stop_study() {
    # Slurm warns three minutes before the end: running trials save where they stand.
    if [ -n "$study_pid" ]; then
        kill -TERM "$study_pid" 2>/dev/null || true
    fi
}
started=()
trap finish EXIT
trap stop_study TERM INT

mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
head=${nodes[0]}
# Some systems give a node's own name a loopback address (127.0.1.1), at which no other node finds it.
addresses=$(srun --nodes=1 --ntasks=1 --nodelist="$head" bash -c 'hostname --ip-address; hostname -I || true')
head_ip=$(tr ' ' '\n' <<<"$addresses" | grep -E '^[0-9.]+$' | grep -v -m 1 '^127\.' || echo 127.0.0.1)
common=(--num-cpus="$cpus" --num-gpus="$gpus" --disable-usage-stats --block)

srun --overlap --nodes=1 --ntasks=1 --nodelist="$head" "$ray" start --head \
    --node-ip-address="$head_ip" --port="$port" --dashboard-host=127.0.0.1 --temp-dir="$temporary" "${common[@]}" &
started+=("$!")
for _ in $(seq "${MURK_TRIES:-60}"); do # workers that come before the head give up
    if (exec 3<>"/dev/tcp/$head_ip/$port") 2>/dev/null; then
        break
    fi
    sleep "${MURK_WAIT_S:-2}"
done
for node in "${nodes[@]:1}"; do
    srun --overlap --nodes=1 --ntasks=1 --nodelist="$node" "$ray" start \
        --address="$head_ip:$port" "${common[@]}" &
    started+=("$!")
done
"$python" - "$head_ip:$port" "${#nodes[@]}" <<'PYTHON'
import sys, time
import ray

address, wanted = sys.argv[1], int(sys.argv[2])
ray.init(address=address, logging_level="ERROR")
end = time.monotonic() + 300
while (found := sum(node["Alive"] for node in ray.nodes())) < wanted:
    if time.monotonic() > end:
        sys.exit(f"only {found} of {wanted} nodes joined Ray within 300 s; see this job's log")
    time.sleep(2)
PYTHON

"$python" -m murk run "$@" --address "$head_ip:$port" &
study_pid=$!
code=0
wait "$study_pid" || code=$?
if kill -0 "$study_pid" 2>/dev/null; then # the wait was ended by a signal, the study is still saving
    code=0
    wait "$study_pid" || code=$?
fi
exit "$code"
