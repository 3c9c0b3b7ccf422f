"""``python -m benchmarks.speed layer|step|sample|gpu [flags]``: see ``--help`` of each."""

import sys

from benchmarks.speed import gpu, layer, sample, step
from nanogpkant.base.errors import UsageError, UserError
from nanogpkant.cli import explain, print_answer
from nanogpkant.verbs import flags

BENCHES = {"layer": layer.run, "step": step.run, "sample": sample.run, "gpu": gpu.run}
PROGRAM = "python -m benchmarks.speed"


def main(arguments: list[str]) -> int:
    """Run one benchmark; returns the exit status: 0 done, 1 failed, 2 bad usage."""
    try:
        run(list(arguments))
    except (UserError, KeyboardInterrupt, OSError) as error:
        if "--debug" in arguments:
            raise
        return explain(error)
    return 0


def run(arguments: list[str]) -> None:
    name = next((a for a in arguments if not a.startswith("-")), None)
    if name is None and {"--help", "-h"} & set(arguments):
        print(f"usage: {PROGRAM} BENCHMARK [flags]\n")
        for each, bench in BENCHES.items():
            print(f"  {each:<7} {flags.summary_of(bench)}")
        return
    if name not in BENCHES:
        problem = f"unknown benchmark {name}" if name else "name a benchmark"
        raise UsageError(f"{problem}: known are {', '.join(BENCHES)}")
    arguments.remove(name)
    bench = BENCHES[name]
    parser = flags.parser_of(name, bench)
    parser.prog = f"{PROGRAM} {name}"
    values = flags.parse(parser, name, bench, arguments)
    print_answer(bench(**values), "--json" in arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
