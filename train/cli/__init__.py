"""The command line: `zoo COMMAND`, or `python -m train COMMAND`. `zoo COMMAND --help` tells all."""

from __future__ import annotations

import logging
import os
import sys
import threading

import tyro

from train import launch
from train.cli import making, models, training, using

COMMANDS = {
    "list": models.list_,
    "card": models.card,
    "recipes": training.recipes,
    "train": training.train,
    "evaluate": using.evaluate,
    "sample": making.sample,
    "generate": making.generate,
    "compare": training.compare,
    "translate": making.translate,
    "augment": training.augment,
    "convert": models.convert,
    "predict": using.predict,
    "export": using.export,
    "bench": models.bench,
}


def main(arguments: list[str] | None = None) -> None:
    """Runs one command. Mistakes of the user end in one line on stderr and exit status 1; ZOO_DEBUG=1 shows where."""
    if arguments is None:
        launch.keep_memory()
    debug = bool(os.environ.get("ZOO_DEBUG"))
    if not debug:
        # What fails in a thread of Orbax or TensorBoard is raised again where it is waited for: tell it once.
        logging.getLogger("absl").setLevel(logging.CRITICAL)
        threading.excepthook = lambda args: None
    try:
        tyro.extras.subcommand_cli_from_dict(
            COMMANDS,
            args=arguments,
            prog="zoo",
            description="A functional model zoo for JAX and Flax: train, evaluate, use and measure its models.",
            config=(tyro.conf.FlagCreatePairsOff, tyro.conf.HelptextFromCommentsOff),
        )
    except BrokenPipeError:  # zoo list | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        sys.exit("\nzoo: interrupted; `zoo train … --resume` continues from the newest checkpoint")
    except (ValueError, OSError, ImportError, RuntimeError) as error:
        if debug:
            raise
        sys.exit(f"zoo: error: {error}")
