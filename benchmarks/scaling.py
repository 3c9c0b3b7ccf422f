"""How much faster several processes train than one, each on one thread of the CPU.

    python benchmarks/scaling.py --preset quickstart_kan --processes 2 --steps 20 --repeats 3

The batch is the same for all, so this is strong scaling: at an efficiency of 100% a step takes 1/N
of the time. One and N processes take turns. Of every turn the median step counts, and of the turns
the median; the fastest step of all is given too, as the one that other work disturbed least.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

WARM_UP = 3  # steps that are not counted: code is compiled, buckets are laid out


def step_times(preset: str, steps: int) -> list[float]:
    """In one of the processes: seconds of each step, on the slowest of them."""
    from nanogpkant.config import with_changes
    from nanogpkant.distributed import start_world
    from nanogpkant.presets import load_preset
    from nanogpkant.train import start, train_step

    config = with_changes(load_preset(preset)[1], **{"train.device": "cpu"})
    times = []
    with tempfile.TemporaryDirectory() as folder, start_world(config.train) as world:
        out = world.from_main(lambda: Path(folder) / "run")
        s = start(world, config, out, resume=False, overwrite=False)
        for _ in range(WARM_UP + steps):
            started = time.perf_counter()
            train_step(s, is_logged=False)
            times += world.largest(time.perf_counter() - started)
            s.state.step += 1
        del s  # ahead of what binds the processes together
    return times[WARM_UP:]


def run(options: argparse.Namespace, processes: int) -> list[float]:
    """Start the processes; returns rank 0's times."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc_per_node", str(processes), __file__, "--worker"]
    command += ["--preset", options.preset, "--steps", str(options.steps)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, env=environment, text=True)
    return [float(word) for word in done.stdout.split()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", default="quickstart_kan", help="what is trained")
    parser.add_argument("--processes", type=int, default=2, help="compared with one")
    parser.add_argument("--steps", type=int, default=20, help="timed in a turn")
    parser.add_argument("--repeats", type=int, default=3, help="turns of each")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        times = step_times(options.preset, options.steps)
        if os.environ["RANK"] == "0":
            print(*times)
        return
    medians: dict[int, list[float]] = {1: [], options.processes: []}
    fastest = dict.fromkeys(medians, float("inf"))
    for _ in range(options.repeats):
        for processes, found in medians.items():
            times = run(options, processes)
            found.append(statistics.median(times))
            fastest[processes] = min(fastest[processes], *times)
            print(f"{processes} processes: {found[-1]:.3f} s a step, load {os.getloadavg()[0]:.1f}")
    middle = {processes: statistics.median(found) for processes, found in medians.items()}
    for name, seconds in (("median", middle), ("fastest", fastest)):
        ratio = seconds[1] / seconds[options.processes]
        print(
            f"{name} step: {seconds[1]:.3f} s and {seconds[options.processes]:.3f} s, "
            f"{ratio:.2f} times as fast, efficiency {ratio / options.processes:.0%}"
        )


if __name__ == "__main__":
    main()
