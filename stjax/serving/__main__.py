"""Serve what was trained: `python -m stjax.serving COMMAND RUN [OPTIONS]`.

RUN is a run folder of train.py, with a validated checkpoint; its log must still be where it was.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from stjax.command import exit_code


def main(arguments: Sequence[str]) -> int:
    """The exit code, see `stjax.command`."""
    parser = argparse.ArgumentParser(
        prog="python -m stjax.serving",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_export(commands)
    options = parser.parse_args(arguments)
    return exit_code(lambda: options.run_command(options))


def _add_export(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    about = "write a folder that needs neither stjax nor Flax to run"
    command = commands.add_parser("export", help=about, description=about, allow_abbrev=False)
    command.add_argument("run", type=Path, metavar="RUN", help="run folder of train.py")
    command.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to write")
    command.add_argument("--k", type=int, default=100, help="the longest answer (100)")
    command.add_argument("--overwrite", action="store_true", help="replace an export that is there")
    command.set_defaults(run_command=_export)


def _export(options: argparse.Namespace) -> None:
    from stjax.serving.export import check, export  # here: other commands do without
    from stjax.serving.load import load_run
    from stjax.training.setup import use_compilation_cache

    check(options.out, options.k, options.overwrite)  # before what takes long
    use_compilation_cache()
    done = export(load_run(options.run), options.out, options.k, options.overwrite)
    for name, size in done.bytes.items():
        print(f"{size:>13,} bytes  {name}")
    print(f"exported {done.version} to {done.folder}: python {done.folder / 'loader.py'} runs it")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
