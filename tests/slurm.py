"""A stand-in of SLURM: its programs, which run a batch script here and at once."""

from pathlib import Path

STAND_INS = {
    # Keeps a copy of the batch script, runs it in the background, as SLURM does elsewhere, and says its number.
    "sbatch": 'cp "$1" "$MSMETA_RESULTS/script.sh"\n'
    'SLURM_JOB_ID=$$ nohup bash "$1" >/dev/null 2>&1 & echo Submitted batch job $$',
    # Takes the options off the command, and runs it with what SLURM tells a task.
    "srun": 'while [ $# -gt 0 ] && [ "${1#-}" != "$1" ]; do case $1 in --output|--error) shift;; esac; shift; done\n'
    "export SLURM_JOB_ID SLURM_PROCID=0 SLURM_LOCALID=0 SLURM_NODEID=0 SLURM_NTASKS=1 SLURM_JOB_NUM_NODES=1\n"
    'exec "$@"',
    "sacct": "echo 'JobID|State|NodeList'",
}


def install(folder: Path) -> None:
    """Puts the programs into a folder, for the front of `PATH`."""
    for name, script in STAND_INS.items():
        (folder / name).write_text(f"#!/bin/bash\n{script}\n")
        (folder / name).chmod(0o755)
