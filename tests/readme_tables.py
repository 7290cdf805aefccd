"""README's tables of models and recipes: `python -m tests.readme_tables` writes them, a test fails where they differ.

Models and their counts come from the registry, and what they are compared with from the tests in `tests/parity`. What a
recipe reached comes from the report of a recorded run: that of the model which ships under the recipe's name. The rest
is written by hand, and stays as it is: descriptions, times on a machine that does nothing else, and what recipes
without a report reached.
"""

from __future__ import annotations

import re
from collections.abc import Container, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import NamedTuple

import train.recipes  # noqa: F401
import zoo
from train.publishing.headline import headline
from train.publishing.records import record_of
from train.recipe import get_recipe, list_recipes

README = Path(__file__).parents[1] / "README.md"

REPORT = "zoo/pretrained/weights/{}/report.json"


class Parity(NamedTuple):
    """What a model is compared with.

    Attributes:
      library: whose implementation.
      bound: the greatest difference that the test allows, relative to the greatest output.
      test: in `tests/parity`, FILE::FUNCTION.
    """

    library: str
    bound: str
    test: str


PARITY = {
    "resnet*": Parity("timm", "1e-4", "test_timm_resnet::test_logits"),
    "alexnet": Parity("torchvision", "1e-5", "test_canon::test_logits_of_torchvision"),
    **dict.fromkeys(
        ("vgg*", "densenet121", "mobilenet_v3_large", "efficientnet_*", "convnext_tiny", "vit_*"),
        Parity("timm", "1e-5", "test_canon::test_logits_and_stages_of_timm"),
    ),
    "cnn": Parity("Keras", "1e-5", "test_keras_models::test_cnn_of_section_5_3_1"),
    "mini_resnet": Parity("Keras", "1e-5", "test_keras_models::test_mini_resnet_of_section_5_4_4"),
    "mlp": Parity("Keras", "1e-5", "test_keras_models::test_mlp_of_section_2_4_3"),
    "lenet5": Parity("Keras", "1e-5", "test_keras_models::test_lenet5"),
    "darts_v[12]": Parity("PyTorch", "1e-4", "test_darts::test_outputs_are_those_of_the_public_structure"),
    **{
        name: Parity("PyTorch Geometric", "1e-5", f"test_graphs::test_{name}")
        for name in ("gcn", "gat", "graphsage", "appnp", "gcnii", "gin")
    },
    **dict.fromkeys(
        ("lstm_regressor", "gru_regressor", "bilstm_regressor"),
        Parity("Keras", "1e-5", "test_recurrent::test_the_guides_regressors_are_kerass"),
    ),
    "attention_regressor": Parity("Keras", "1e-5", "test_recurrent::test_the_attention_regressor_is_kerass"),
    "char_lstm": Parity("PyTorch", "1e-5", "test_recurrent::test_char_lstm_is_pytorchs"),
    "transformer_classifier": Parity("Keras", "1e-5", "test_transformers::test_the_guides_classifier_in_keras"),
    "transformer_base": Parity("PyTorch", "1e-5", "test_transformers::test_decoder_layer"),
    "transformer_tiny": Parity("PyTorch", "1e-5", "test_transformers::test_decoder_layer"),
    **dict.fromkeys(
        ("gpt2*", "llama*", "tinyllama_1b", "bert_*"), Parity("transformers", "1e-5", "test_transformers::test_logits")
    ),
    "autoencoder": Parity("PyTorch", "1e-5", "test_generative::test_dense_autoencoder"),
    "conv_autoencoder": Parity("PyTorch", "1e-5", "test_generative::test_conv_autoencoder_learns_by_the_same_gradient"),
    "vae": Parity("PyTorch", "1e-5", "test_generative::test_vae_of_the_guide"),
    "gan": Parity("PyTorch", "1e-5", "test_generative::test_gan_of_the_guide"),
    "ddpm_unet": Parity("PyTorch", "1e-4", "test_generative::test_unet_and_the_gradient_of_the_simple_loss"),
}
"""By a wildcard for the names of models. The sizes of the test may be smaller ones of the same module."""


def parity_of(name: str) -> Parity | None:
    """What a model is compared with; None where no test of `tests/parity` has its outputs."""
    return next((row for pattern, row in PARITY.items() if fnmatch(name, pattern)), None)


_AUTHORS = re.compile(r"^(?:(?:[A-Z]\.[ -]?)+(?:van der |de )?[\w’'-]+(?:, | et al\.)?)+")


def short_paper(paper: str) -> str:
    """ "Y. LeCun et al., Gradient-based learning …, 1998, figure 2" → "LeCun et al. 1998"; the guide stays whole."""
    found = []
    for clause in paper.split("; "):
        authors = _AUTHORS.match(clause)
        years = re.findall(r"\b(?:19|20)\d\d\b", clause)
        preprint = re.search(r"arXiv:(\d\d)\d\d\.", clause)
        year = years[-1] if years else f"20{preprint[1]}" if preprint else ""
        if authors is None:
            found.append(clause)
        else:
            names = re.sub(r"(?:[A-Z]\.[ -]?)+", "", authors[0]).strip(" ,")
            found.append(f"{names} {year}".strip())
    return "; ".join(dict.fromkeys(found))


def models_table(rows: dict[str, list[str]]) -> str:
    """The models, given the cells of the table as it is: counts and comparisons are written anew."""
    lines = ["| model | parameters | paper | differs by less than |", "|---|---|---|---|"]
    for name in [*(each for each in rows if each in zoo.list_models()), *_others(rows, zoo.list_models())]:
        card, parity = zoo.model_card(name), parity_of(name)
        paper = rows[name][1] if name in rows else short_paper(card.paper)
        compared = "" if parity is None else f"{parity.bound} from {parity.library}"
        lines.append(f"| `{name}` | {card.num_parameters:,} | {paper} | {compared} |".replace("|  |", "| |"))
    return "\n".join(lines)


def recipes_table(rows: dict[str, list[str]]) -> str:
    """The recipes, given the cells of the table as it is: what recorded runs reached is written anew.

    What stands behind the link to a report, as the same over several seeds, stays.
    """
    lines = ["| recipe | model and data | time on 2 CPU cores | on the test split |", "|---|---|---|---|"]
    for name in [*(each for each in rows if each in list_recipes()), *_others(rows, list_recipes())]:
        about, time, reached = (*rows.get(name, [])[:3], "", "", "")[:3]
        if (record := record_of(name)) is not None:
            found = headline(get_recipe(name).task, record)
            remark = reached.partition(")")[2] if reached.startswith("[") else ""
            reached = f"[{name if found is None else found.words}]({REPORT.format(name)}){remark}"
        lines.append(f"| `{name}` | {about} | {time} | {reached} |")
    return "\n".join(lines)


def _others(known: Container[str], names: Sequence[str]) -> list[str]:
    return [name for name in names if name not in known]


def written(readme: str) -> str:
    """README with its tables as they are to be."""
    for head, table in (("model | parameters", models_table), ("recipe | model and data", recipes_table)):
        found = re.search(rf"^{re.escape(f'| {head} |')}.*?\n(?=\n)", readme, re.MULTILINE | re.DOTALL)
        assert found is not None, f"README has no table that begins with | {head} |"
        cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in found[0].splitlines()[2:]]
        readme = readme.replace(found[0], table({row[0].strip("`"): row[1:] for row in cells}) + "\n")
    return readme


if __name__ == "__main__":
    README.write_text(written(README.read_text(encoding="utf-8")), encoding="utf-8")
