"""Slurm jobs that save before their time is up, and come again."""

from collections.abc import Mapping, Sequence
import shlex

# Seconds before the time limit at which the processes are asked to save.
_NOTICE_SECONDS = 120

_SCRIPT = """\
#!/usr/bin/env bash
{directives}
set -euo pipefail

# The notice before the time limit goes to the processes alone. What reaches
# this script is a cancellation, or a preemption after which Slurm itself starts
# the job again.
is_cancelled=false
trap 'is_cancelled=true' TERM

# Once one process has failed, srun kills the others and tells of them as well:
# what must not be started again is noted here. Who has saved waits a little,
# lest the others be hurried. (A note is a file that is taken away: that works
# where the disk is full.)
export HQ_JAX_NOTE=$PWD/.hq_jax-$SLURM_JOB_ID
touch "$HQ_JAX_NOTE".{{2,3,130}}
process='
  trap : TERM INT
  "$@"
  status=$?
  case $status in
    2 | 3) rm -f "$HQ_JAX_NOTE.$status" ;;
    130) rm -f "$HQ_JAX_NOTE.$status"; sleep 15 ;;
    143) sleep 15 ;;
  esac
  exit "$status"
'

# JAX takes one device for each process, by its place on the node: all of them
# must see all of the node's.
status=0
{srun} || status=$?

# Refused, numbers went wrong, or scancel --signal=INT. (A shared folder may
# show for a while what is gone; to open it asks the server.)
final=
for noted in 130 3 2; do
  {{ : < "$HQ_JAX_NOTE.$noted"; }} 2> /dev/null || final=$noted
done
rm -f "$HQ_JAX_NOTE".{{2,3,130}}
if [[ -n $final ]]; then exit "$final"; fi

if ((status == 0)); then exit 0; fi
if $is_cancelled; then
  echo "hq_jax: cancelled, status $status" >&2
  exit "$status"
fi
restarts=${{SLURM_RESTART_COUNT:-0}}
if ((restarts >= {max_restarts})); then
  echo "hq_jax: status $status after $restarts restarts: giving up" >&2
  exit "$status"
fi
echo "hq_jax: status $status: starting again" >&2
scontrol requeue "$SLURM_JOB_ID"
"""


def make_script(
  program: Sequence[str],
  num_nodes: int,
  gpus_per_node: int,
  max_restarts: int,
  options: Mapping[str, object],
) -> str:
  """Writes the script of a job: one process for each GPU."""
  listed = {
    'nodes': num_nodes,
    'ntasks-per-node': gpus_per_node,
    'gpus-per-node': gpus_per_node,
    **options,
    'signal': f'TERM@{_NOTICE_SECONDS}',
    'open-mode': 'append',
  }
  directives = [f'#SBATCH --{name}={value}' for name, value in listed.items()]
  srun = ['srun', '--kill-on-bad-exit=1', '--wait=0', '--gpu-bind=none']
  if 'cpus-per-task' in options:
    # Since Slurm 22.05 a step does not take it over from the job.
    srun.append(f'--cpus-per-task={options["cpus-per-task"]}')
  return _SCRIPT.format(
    directives='\n'.join([*directives, '#SBATCH --requeue']),
    srun=f'{shlex.join(srun)} bash -c "$process" hq_jax {shlex.join(program)}',
    max_restarts=max_restarts,
  )
