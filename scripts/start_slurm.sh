#!/usr/bin/env bash
# Starts a SLURM cluster on this machine alone, to try --launcher=slurm: munge, the controller and one node.
#
#   apt-get install slurm-wlm munge
#   export SLURM_CONF=$(bash scripts/start_slurm.sh DIR)        starts the cluster and prints its configuration file;
#                                                               seconds
#   bash scripts/start_slurm.sh DIR stop                        stops the cluster
#
# The script needs root, and works without systemd. The only partition, "debug", has all cores and most of the memory.
# Jobs that are preempted or lose their node are requeued.
#
# Writes DIR/: configuration, state and logs.
set -euo pipefail

fail() {
  echo "start_slurm.sh: $1" >&2
  exit 1
}

[[ $# -eq 1 || ($# -eq 2 && $2 == stop) ]] || fail "give a folder, and perhaps the word stop: bash scripts/start_slurm.sh DIR [stop]"
mkdir -p "$1"
dir=$(cd "$1" && pwd)
export SLURM_CONF="$dir/slurm.conf"

runs() {  # whether the daemon runs; its recorded process id may belong to another program by now
  [[ -s $dir/$1.pid && $(cat "/proc/$(cat "$dir/$1.pid")/comm" 2> /dev/null) == "$1" ]]
}

if [[ ${2:-} == stop ]]; then
  timeout 5 scancel --partition=debug 2> /dev/null || true
  for _ in $(seq 40); do  # wait for the jobs to end; a job whose daemons ended first would stay for ever
    [[ -n $(timeout 5 squeue --noheader 2> /dev/null || true) ]] || break
    sleep 0.5
  done
  for name in slurmd slurmctld munged; do
    ! runs "$name" || kill "$(cat "$dir/$name.pid")" 2> /dev/null || true
  done
  exit 0
fi

for program in munged slurmctld slurmd sbatch srun; do
  command -v "$program" > /dev/null || fail "there is no $program; install the packages slurm-wlm and munge"
done
[[ $(id -u) == 0 ]] || fail "the daemons need root; run the script as root"
for name in slurmd slurmctld munged; do
  ! runs "$name" || fail "$name already runs in $dir; use this cluster (export SLURM_CONF=$SLURM_CONF), or stop it: bash scripts/start_slurm.sh $1 stop"
done

# This munge has its own socket and key, so a munge that is already running is not disturbed.
[[ -f $dir/munge.key ]] || (umask 077 && head -c 128 /dev/urandom > "$dir/munge.key")
munged --force --key-file="$dir/munge.key" --socket="$dir/munge.socket" --pid-file="$dir/munged.pid" \
  --log-file="$dir/munged.log" --seed-file="$dir/munged.seed" 2> "$dir/munged.err" || fail "$(tail -n 1 "$dir/munged.err")"

free_port() {
  python3 -c 'import socket; s = socket.socket(); s.bind(("", 0)); print(s.getsockname()[1])'
}
memory=$(($(awk '/MemTotal/ {print $2}' /proc/meminfo) * 9 / 10240))
mkdir -p "$dir/state" "$dir/spool"
cat > "$SLURM_CONF" << CONF
ClusterName=local
SlurmctldHost=$(hostname -s)
SlurmctldPort=$(free_port)
SlurmdPort=$(free_port)
AuthType=auth/munge
AuthInfo=socket=$dir/munge.socket,cred_expire=20  # a requeued job waits this long
CredType=cred/munge
SlurmUser=root
SlurmctldPidFile=$dir/slurmctld.pid
SlurmdPidFile=$dir/slurmd.pid
SlurmctldLogFile=$dir/slurmctld.log
SlurmdLogFile=$dir/slurmd.log
StateSaveLocation=$dir/state
SlurmdSpoolDir=$dir/spool
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
SlurmdParameters=config_overrides
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
ReturnToService=2
MpiDefault=none
SchedulerParameters=sched_interval=1,batch_sched_delay=0
KillWait=10
NodeName=$(hostname -s) NodeAddr=127.0.0.1 CPUs=$(nproc) RealMemory=$memory State=UNKNOWN
PartitionName=debug Nodes=ALL Default=YES MaxTime=INFINITE State=UP
CONF
slurmctld -c > "$dir/slurmctld.out" 2>&1 || fail "$(tail -n 1 "$dir/slurmctld.out")"
slurmd > "$dir/slurmd.out" 2>&1 || fail "$(tail -n 1 "$dir/slurmd.out")"
for _ in $(seq 60); do
  [[ $(sinfo --noheader --format=%T 2> /dev/null) != idle ]] || break
  sleep 0.5
done
[[ $(sinfo --noheader --format=%T) == idle ]] || fail "the node does not start; the last line of its log: $(tail -n 1 "$dir/slurmd.log")"
echo "$SLURM_CONF"
