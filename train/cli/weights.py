"""Commands on weights and what is said of them: weights, card, push."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from tyro.conf import Positional, arg

from train.cli import console
from train.cli.arguments import Json, ModelOptions, RunFolder, model_options


def weights(
    name: Annotated[
        Positional[str], arg(metavar="NAME", help='these alone; a model, or a wildcard such as "resnet*"')
    ] = "*",
    json: Json = False,
) -> None:
    """List trained weights: those that ship with the zoo, and those on the hub that are known by their model's name.

    The first are used like a run, `zoo predict lenet5_mnist five.png`; the second by `zoo convert MODEL --out FOLDER`
    or zoo.pretrained.load(MODEL).
    """
    from train.publishing.catalogue import known, shipped

    ours, others = shipped(name), known(name)
    if json:
        return console.print_json({"shipped": ours, "known": others})
    if not ours and not others:
        raise ValueError(
            f"no weights match {name!r}; `zoo weights` shows all, `zoo list` the models without weights too"
        )
    if ours:
        print("These ship with the zoo:\n")
        console.print_table(ours, ("name", "model", "data", "reached", "licence"))
    if ours and others:
        print()
    if others:
        print("These are on the hub of Hugging Face:\n")
        console.print_table(others, ("model", "source", "licence", "published", "reference"))


def card(
    name: Annotated[
        Positional[str],
        arg(metavar="NAME", help="a model of `zoo list`; or a run, a model of `zoo weights`, USER/NAME on the hub"),
    ],
    settings: ModelOptions = (),
    markdown: Annotated[bool, arg(help="of a model: print Markdown, with code that uses it")] = False,
    licence: Annotated[str | None, arg(help="of a run: that of its weights, such as apache-2.0")] = None,
    json: Json = False,
) -> None:
    """Show a model: options, layer table, parameters, FLOPs of one inference; or the card of a run, in Markdown.

    Where a folder has the name of a model, the model is shown; a path such as ./resnet50 is a folder.
    """
    import zoo
    from zoo.published import find

    if name not in zoo.list_models() and (find(name).is_dir() or "/" in name):
        if settings:
            raise ValueError(f"{name} is a run: its model has the options of its recipe; leave out {settings[0]}")
        return _run_card(name, licence, json)
    from train.publishing.model_cards import ModelFacts, markdown_card, model_facts

    facts: ModelFacts = model_facts(name, model_options(settings))
    if json:
        return console.print_json({**facts.summary, "layers": [layer._asdict() for layer in facts.layers]})
    if markdown:
        return print(markdown_card(facts), end="")
    for fact, value in facts.summary.items():
        print(f"{fact:16}{value:,}" if isinstance(value, int) else f"{fact:16}{value}")
    print()
    console.print_table([layer._asdict() for layer in facts.layers], ("path", "kind", "output_shape", "num_parameters"))


def _run_card(name: str, licence: str | None, json: bool) -> None:
    from train.publishing.cards import as_facts, facts_of, run_card, stated_licence

    facts = facts_of(name)
    if json:
        return console.print_json(as_facts(facts, name))
    print(run_card(facts, name, licence=licence or stated_licence(facts.folder)), end="")


def push(
    run: RunFolder,
    repository: Annotated[Positional[str], arg(metavar="USER/NAME", help="where to; made if it is not there")],
    licence: Annotated[str | None, arg(help="of the weights, such as apache-2.0")] = None,
    private: Annotated[bool, arg(help="make a new repository private")] = False,
    json: Json = False,
) -> None:
    """Put the best checkpoint of a run on the hub of Hugging Face, with its card, recipe and report.

    Then `zoo predict USER/NAME …` and zoo.load_model("USER/NAME") work everywhere. Who you are is told by
    `hf auth login` or HF_TOKEN. Paths of this machine are left out.
    """
    from train.publishing.hub import push as push_run

    url = push_run(run, repository, licence=licence, private=private)
    facts: dict[str, Any] = {"repository": repository, "url": url, "licence": licence, "run": str(Path(run))}
    if json:
        return console.print_json(facts)
    print(f"{url}: zoo card {repository}, zoo.load_model({repository!r})")
