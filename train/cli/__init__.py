"""The command line: `zoo COMMAND`, or `python -m train COMMAND`. `zoo COMMAND --help` tells all."""

from __future__ import annotations

import functools
import inspect
import logging
import os
import shlex
import sys
import threading
import typing
from collections.abc import Callable
from importlib.metadata import version
from typing import Annotated, Any

import tyro
from tyro.conf import UseAppendAction, arg

from train import launch
from train.cli import architecture, console, diagnosis, generation, inference, models, training, tuning, weights
from train.cli.arguments import positionals_first

COMMANDS = {
    "list": models.list_,
    "card": weights.card,
    "recipes": training.recipes,
    "train": training.train,
    "tune": tuning.tune,
    "search": architecture.search,
    "evaluate": inference.evaluate,
    "sample": generation.sample,
    "generate": generation.generate,
    "compare": training.compare,
    "translate": generation.translate,
    "augment": training.augment,
    "lr-find": diagnosis.lr_find,
    "diagnose": diagnosis.diagnose,
    "convert": models.convert,
    "predict": inference.predict,
    "adapt": inference.adapt,
    "demo": inference.demo,
    "export": inference.export,
    "bench": models.bench,
    "weights": weights.weights,
    "push": weights.push,
}


Imports = Annotated[
    UseAppendAction[tuple[str, ...]],
    arg(
        name="import",
        metavar="MODULE",
        help="my_module or my_file.py with models, data sets, tasks or recipes of your own; as often as needed",
    ),
]


def _with_imports(command: Callable[..., None]) -> Callable[..., None]:
    """The command with the option --import, which makes a user's own code known before it runs."""

    @functools.wraps(command)
    def run(*arguments: Any, imports: tuple[str, ...] = (), **options: Any) -> None:
        launch.require_known_xla_flags(os.environ)
        if options.get("distributed"):
            launch.join_processes(options.get("join_timeout", 300.0))  # before anything can ask JAX for its devices
        if imports:
            from train.user_code import import_code

            for reference in imports:
                import_code(reference)
        command(*arguments, **options)

    signature = inspect.signature(command)
    hints = typing.get_type_hints(command, include_extras=True)
    parameters = [p.replace(annotation=hints[p.name]) for p in signature.parameters.values()]
    added = inspect.Parameter("imports", inspect.Parameter.KEYWORD_ONLY, default=(), annotation=Imports)
    run.__signature__ = signature.replace(parameters=[*parameters, added])  # type: ignore[attr-defined]
    run.__annotations__ = {**hints, "imports": Imports}
    del run.__wrapped__  # type: ignore[attr-defined]
    return run


def main(arguments: list[str] | None = None) -> None:
    """Runs one command. Mistakes of the user end in one line on stderr and exit status 1; ZOO_DEBUG=1 shows where."""
    if arguments is None:
        launch.keep_memory()
        launch.keep_programs(os.environ)
    debug = bool(os.environ.get("ZOO_DEBUG"))
    if not debug:
        # What fails in a thread of Orbax or TensorBoard is raised again where it is waited for: tell it once.
        logging.getLogger("absl").setLevel(logging.CRITICAL)
        threading.excepthook = lambda args: None
    logging.basicConfig()
    for handler in logging.root.handlers:
        if type(handler) is logging.StreamHandler:
            handler.setFormatter(logging.Formatter("zoo: %(message)s"))
    words = given = sys.argv[1:] if arguments is None else list(arguments)
    if words in (["--version"], ["-V"]):
        return print(f"zoo {version('flaxzoo')}")
    command = words[0] if words else ""
    try:
        if command in COMMANDS:
            words = [command, *positionals_first(words[1:], COMMANDS[command])]
        elif command and not command.startswith("-"):
            from zoo.options import unknown

            raise ValueError(unknown("command", command, COMMANDS))
        tyro.extras.subcommand_cli_from_dict(
            {name: _with_imports(command) for name, command in COMMANDS.items()},
            args=words,
            prog="zoo",
            description="A functional model zoo for JAX and Flax: train, evaluate, use and measure its models. "
            "`zoo --version` tells the version.",
            config=(tyro.conf.FlagCreatePairsOff, tyro.conf.HelptextFromCommentsOff),
        )
    except BrokenPipeError:  # zoo list | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        again = shlex.join(["zoo", *given, *(["--resume"] if "--resume" not in given else [])])
        advice = {
            "train": f"; this continues from the newest checkpoint:\n{again}",
            "compare": "; the same command goes on",
            "search": "; the same command goes on with the search",
            "tune": "; the same command goes on with the study",
        }.get(command, "")
        raise KeyboardInterrupt(advice) from None
    except (ValueError, OSError, ImportError, RuntimeError) as error:
        if debug:
            raise
        sys.exit(f"zoo: error: {console.printable(str(error), lines=True)}")
