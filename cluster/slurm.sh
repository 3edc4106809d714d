#!/bin/bash
# Starts Ray on the nodes of a Slurm allocation and runs one job of this project on it. Submit it from the checkout,
# which all nodes see, as the runs' folder is:
#
#     sbatch --nodes=8 cluster/slurm.sh jobs/train_stage.py --recipe mars_7b --root /shared/runs
#
# Flags of sbatch before the script's name override the lines below. Five minutes before the time limit, the job is asked
# to end: it writes a checkpoint and ends with exit code 7, and this script puts it into the queue again, where it goes on
# from that checkpoint. Any other exit code of the job is this script's own. See docs/cluster.md.
#
#SBATCH --job-name=mars
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --exclusive
#SBATCH --time=24:00:00
#SBATCH --signal=B:USR1@300
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.log

set -u
readonly PREEMPTED=7         # the job's exit code once it was asked to end and has written a checkpoint
readonly HEAD_WAIT_S=120     # seconds in which Ray's head has to answer
readonly FIRST_PORT=20000 PORTS=10000
readonly HEAD_STEP=1 OTHERS_STEP=2 # numbers of this script's calls of srun, from 0

fail() {
    echo "slurm.sh: $1" >&2
    exit 2
}

say() { echo "$(date +%H:%M:%S)  slurm.sh: $1" >&2; }

(($#)) || fail "name a job and its flags, as in: sbatch cluster/slurm.sh jobs/train_stage.py --recipe mars_7b"
[[ -n ${SLURM_JOB_ID:-} ]] || fail "this is no Slurm job; submit it with sbatch"
[[ -f $1 ]] || fail "'$1' is no file in '$PWD'; submit from the checkout, and name a job as in jobs/train_stage.py"

python=${MARS_PYTHON:-$PWD/.venv/bin/python}
[[ -x $python ]] || fail "'$python' is no Python; run make install in '$PWD', or set MARS_PYTHON to one with the project"
ray=$(dirname "$python")/ray

nodes=($(scontrol show hostnames "$SLURM_JOB_NODELIST"))
head=${nodes[0]}
# A step gets the node's CPUs and memory, whatever Slurm's defaults are, and shares them with the steps of this script.
run=(srun --overlap --cpus-per-task="$SLURM_CPUS_ON_NODE" --cpu-bind=none --mem=0)
address=$("${run[@]}" --nodes=1 --ntasks=1 --nodelist="$head" hostname --ip-address | awk '{ print $1 }')
port=$((FIRST_PORT + SLURM_JOB_ID % PORTS))

# Jobs on the same nodes find neither this cluster nor its files, and nobody without the token can use it. The folder's
# name is short, since Ray's sockets lie in it.
export RAY_TMPDIR=${RAY_TMPDIR:-/tmp/ray-$SLURM_JOB_ID} RAY_AUTH_MODE=token
export RAY_AUTH_TOKEN=${RAY_AUTH_TOKEN:-$(head -c 32 /dev/urandom | od -An -tx1 | tr -d ' \n')}
unset RAY_ADDRESS RAY_API_SERVER_ADDRESS

start=("$ray" start --block --disable-usage-stats --num-cpus="$SLURM_CPUS_ON_NODE" --dashboard-agent-listen-port=0)
said=mars-ray-$SLURM_JOB_ID.log
say "Ray on ${#nodes[@]} nodes, with its head on $head ($address:$port); what Ray says is in $said"
"${run[@]}" --nodes=1 --ntasks=1 --nodelist="$head" \
    "${start[@]}" --head --node-ip-address="$address" --port="$port" --include-dashboard=false &>> "$said" &
deadline=$((SECONDS + HEAD_WAIT_S))
until (: < "/dev/tcp/$address/$port") 2> /dev/null; do
    ((SECONDS < deadline)) || fail "Ray's head on $head does not answer after $HEAD_WAIT_S s; see $said"
    sleep 1
done
if ((${#nodes[@]} > 1)); then
    others=$(IFS=, && echo "${nodes[*]:1}")
    "${run[@]}" --nodes=$((${#nodes[@]} - 1)) --ntasks=$((${#nodes[@]} - 1)) --nodelist="$others" \
        "${start[@]}" --address="$address:$port" &>> "$said" &
fi

RAY_ADDRESS=$address:$port "$python" -P "$@" &
job=$!
again=false
end() {
    say "$1: the job is asked to end"
    kill -TERM "$job" 2> /dev/null
}
trap 'again=true; end "the time limit is near"' USR1
trap 'end "ended by a signal"' TERM
wait "$job"
code=$?
while kill -0 "$job" 2> /dev/null; do # a signal ended the wait, and not the job
    wait "$job"
    code=$?
done
trap '' USR1 TERM
say "the job ended with $code"

for step in $HEAD_STEP $OTHERS_STEP; do
    scancel --quiet --signal=KILL "$SLURM_JOB_ID.$step"
done
if ((code == 0 || code == PREEMPTED)); then # else Ray's logs are kept
    "${run[@]}" --ntasks-per-node=1 rm -rf "$RAY_TMPDIR" "$said"
fi
if ((code == PREEMPTED)) && $again && scontrol requeue "$SLURM_JOB_ID"; then
    say "it is queued again, and goes on from its checkpoint"
    sleep 60 # Slurm ends this script
fi
exit "$code"
