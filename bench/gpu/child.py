"""One part in a process of its own: `python -m gpu.child FUNCTION FILE …` appends each row to a file of JSON lines."""

from __future__ import annotations

import argparse
import importlib
import json
import time
from pathlib import Path

from gpu.rows import Scene


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("function", help="MODULE or MODULE:FUNCTION of this package")
    parser.add_argument("rows", type=Path, help="file to append to")
    parser.add_argument(
        "--until", type=float, required=True, help="when it is ended, in seconds of the monotonic clock"
    )
    parser.add_argument("--rehearse", action="store_true")
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    module, _, function = args.function.partition(":")
    scene = Scene("cpu" if args.rehearse else "cuda", args.until - time.monotonic(), args.rehearse, args.quick)
    measure = getattr(importlib.import_module(f"gpu.{module}"), function or "measure")
    with args.rows.open("a") as file:
        for row in measure(scene):
            file.write(json.dumps(row.as_json(), default=str) + "\n")
            file.flush()


if __name__ == "__main__":
    main()
