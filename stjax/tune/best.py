"""best.py: the best experiment of a search as a config file of its own."""

from __future__ import annotations

import os
import textwrap
from pathlib import Path
from typing import Any

from stjax.errors import ConfigError
from stjax.training import Experiment, load_config, load_module
from stjax.tune.source import Writer, render, same, text

TEXT = '''"""{title}
"""

{imports}

base = load_module({path})

experiment = {code}
'''


def write_best(folder: Path, config: Path, experiment: Experiment, words: str) -> Path:
    """Write `folder`/best.py, whole or not at all: `experiment` as changes of the config.

    words: paragraphs for its docstring. The file is read back before it takes its name: it gives the
    experiment, or there is none. Raises ConfigError where it does not.
    """
    module: Any = load_module(config)
    writer = Writer(module.__name__)
    code = render(writer.change("base.experiment", module.experiment, experiment))
    writer.name("stjax.training", "load_module")
    here, absolute = Path.cwd(), config.absolute()
    path = text(os.fspath(absolute))
    if absolute.is_relative_to(here) and folder.absolute().is_relative_to(here):  # they may move together
        path = f'Path(__file__).parent / "{os.path.relpath(absolute, folder.absolute())}"'
        writer.name("pathlib", "Path")
    whole = TEXT.format(
        title=words.replace("\\", "\\\\"), imports="\n".join(writer.imports()), path=path, code=code
    )
    partial = folder / "best_partial.py"
    partial.write_text(whole)
    if not same(load_config(partial), experiment):
        raise ConfigError(f"{partial} does not give the best experiment: write it by hand from trials.jsonl")
    return partial.rename(folder / "best.py")


def wrapped(paragraph: str) -> str:
    """A paragraph of a docstring."""
    return textwrap.fill(" ".join(paragraph.split()), 100)
