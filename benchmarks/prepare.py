"""CPU time and peak memory of preparing a text.

    python benchmarks/prepare.py TEXT [--copies 1 3] [--tokenizers byte char bpe PATH ...]

TEXT is a plain text such as enwik8, compressed or not; it is repeated --copies times in a temporary
folder and prepared there by one process, whose CPU time and peak memory are shown (POSIX only).
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from nanogpkant.data.read import unpacked

PREPARE = """
import resource, sys, time
from pathlib import Path
from nanogpkant.data import TokenData, prepare
text, folder, tokenizer = sys.argv[1:]
if tokenizer == "bpe":  # training a vocabulary is not timed
    small = Path(folder) / "sample"
    with open(text, "rb") as file:
        small.write_bytes(file.read(5_000_000).decode("utf-8", "ignore").encode("utf-8"))
    tokenizer = str(prepare("vocabulary", Path(folder), small, tokenizer="bpe", vocab_size=4096))
start = time.process_time()
data = TokenData.open(prepare("own", Path(folder), Path(text), tokenizer=tokenizer))
seconds = time.process_time() - start
unit = 1 if sys.platform == "darwin" else 1024
peak = unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
megabytes = Path(text).stat().st_size / 1e6
tokens = len(data.train) + len(data.val)
print(f"{megabytes / seconds:>8.1f} {peak / 1e6:>9.0f} {tokens:>13,}")
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("text", type=Path)
    parser.add_argument("--copies", type=int, nargs="+", default=[1, 3])
    parser.add_argument("--tokenizers", nargs="+", default=["byte", "char", "bpe"])
    options = parser.parse_args()
    print("tokenizer    MB of text  MB/CPU s  peak MB        tokens", flush=True)
    for copies in options.copies:
        with tempfile.TemporaryDirectory() as folder:
            repeated = Path(folder) / "text"
            repeat(options.text, copies, repeated)
            for number, tokenizer in enumerate(options.tokenizers):
                inside = Path(folder) / str(number)
                inside.mkdir()
                name, size = Path(tokenizer).name, repeated.stat().st_size / 1e6
                print(f"{name:<12} {size:>10.0f}", end="  ", flush=True)
                command = [sys.executable, "-c", PREPARE, repeated, inside, tokenizer]
                subprocess.run(command, check=True)


def repeat(text: Path, copies: int, into: Path) -> None:
    with open(into, "wb") as file:
        for _ in range(copies):
            with unpacked(text, lambda count: None) as stream:
                while block := stream.read(1 << 20):
                    file.write(block)


if __name__ == "__main__":
    main()
