"""``python -m benchmarks.speed layer|step|sample|gpu``: see ``--help`` of each."""

import json
import sys

from jsonargparse import ArgumentParser

from benchmarks.speed import run
from benchmarks.speed.flags import KINDS, add_flags
from nanogpkant.base.errors import UserError


def main(arguments: list[str]) -> int:
    parser = ArgumentParser(prog="python -m benchmarks.speed", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object, nothing else")
    add_flags(parser, next((a for a in arguments if a in KINDS), None))
    options = parser.parse_args(arguments)
    try:
        found = run(options.what, options)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_status
    print(json.dumps(found.as_dict()) if options.json else found.markdown().rstrip("\n"))
    return 1 if found.wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
