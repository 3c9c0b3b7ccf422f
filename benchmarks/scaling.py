"""Speed-up of training on several processes, each on one thread of the CPU.

    python benchmarks/scaling.py --preset quickstart_kan --processes 2 --steps 20 --repeats 3

Strong scaling: the global batch is fixed, so at 100% efficiency a step takes 1/N of the time. Runs
of one and N processes alternate; the result is the median over runs of the median step. CPU seconds
are those of the slowest process, without its waiting: use them on a busy machine.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

WARM_UP = 3  # steps not counted, in which code is compiled and buckets are allocated


def step_times(preset: str, steps: int) -> list[float]:
    """Median step of the slowest process; runs in every process.

    Returns:
        [seconds, CPU seconds].
    """
    from nanogpkant.config import load_preset, with_changes
    from nanogpkant.training.loop import train_step
    from nanogpkant.training.opening import open_session
    from nanogpkant.training.parallel import start_world

    config = with_changes(load_preset(preset)[1], **{"train.device": "cpu"})
    times = []
    with tempfile.TemporaryDirectory() as folder, start_world(config.train) as world:
        out = world.from_main(lambda: Path(folder) / "run")
        s = open_session(world, config, out, resume=False, overwrite=False)
        for _ in range(WARM_UP + steps):
            started, used = time.perf_counter(), time.process_time()
            train_step(s, is_logged=False)
            took = time.perf_counter() - started, time.process_time() - used
            times.append(world.largest(*took))
            s.state.step += 1
        del s  # before the process group
    return [statistics.median(each) for each in zip(*times[WARM_UP:], strict=True)]


def run(options: argparse.Namespace, processes: int) -> list[float]:
    """``step_times`` of rank 0 of a new process group."""
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
    turns: dict[int, list[list[float]]] = {1: [], options.processes: []}
    for _ in range(options.repeats):
        for processes, found in turns.items():
            found.append(run(options, processes))
            seconds, used = found[-1]
            load = os.getloadavg()[0]
            print(
                f"{processes} processes: {seconds:.3f} s a step, {used:.3f} of CPU, load {load:.1f}"
            )
    for name, index in (("seconds", 0), ("CPU seconds", 1)):
        one, many = (statistics.median(each[index] for each in turns[n]) for n in turns)
        efficiency = one / many / options.processes
        print(
            f"{name} a step: {one:.3f} with 1 process, {many:.3f} with {options.processes}: "
            f"{one / many:.2f} times as fast, efficiency {efficiency:.0%}"
        )


if __name__ == "__main__":
    main()
