"""The format of weights on disk, kept with Orbax.

A checkpoint is a folder with a separate item for each concern: `params`, `model_state` and `ema` (where there are any),
and `meta`, JSON that names the model and its options. Training adds items of its own beside them, and inference reads
only these: the optimizer is never loaded, and arrays come back as NumPy, whatever devices they were saved from.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import flax.linen as nn
import jax
import numpy as np
from flax.traverse_util import flatten_dict

from zoo.checksums import checksums, damaged_array, of_json
from zoo.hub_folder import CONFIG, read_json
from zoo.loaded import Loaded, Preprocessing
from zoo.options import check_entries, check_options
from zoo.published import find, is_published, read_variables
from zoo.registry import create_model, model_card
from zoo.summary import abstract_variables

if TYPE_CHECKING:
    import orbax.checkpoint as ocp  # what uses it imports it: `zoo list` need not wait for it

_LOG = logging.getLogger(__name__)

CHECKPOINTS = "checkpoints"
"""The folder inside a run that holds its checkpoints, one folder for each step."""


class DamagedError(ValueError):
    """A checkpoint that cannot be read, or whose arrays are not what was written."""


def save_model(
    path: str | Path,
    name: str,
    variables: Mapping[str, Any],
    *,
    preprocessing: Mapping[str, Any] | None = None,
    classes: Sequence[str] = (),
    **options: Any,
) -> None:
    """Saves the variables of `create_model(name, **options)` as the folder `path`, atomically.

    Args:
      path: of the folder.
      name: of a registered model.
      variables: what its `init` returns.
      preprocessing: how images are prepared for it, such as `zoo.pretrained.Preprocessing(…)._asdict()`; `zoo predict`
        does so.
      classes: what its outputs mean.
      options: of the model. The `param_dtype` of variables that are all of another one than the model's is added; the
        `dtype` of the arithmetic cannot be seen in them.

    Raises:
      ValueError: the name or an option is unknown, the options are not plain data (numbers, strings, lists), or the
        variables are not those of this model.
      FileExistsError: `path` exists.
    """
    settings = plain({**_kept_dtype(name, variables), **options})
    require_variables(name, settings, variables)
    path = Path(path).absolute()
    if path.exists():
        raise FileExistsError(f"{path} exists; choose another folder or remove it")
    state = {collection: tree for collection, tree in variables.items() if collection != "params"}
    items = {"params": variables["params"], "model_state": state}
    meta: dict[str, Any] = {"model": name, "model_options": settings}
    if preprocessing is not None:
        meta |= {"preprocessing": plain(preprocessing), "classes": list(classes)}
    import orbax.checkpoint as ocp

    with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as checkpointer:
        checkpointer.save(path, composite(items, meta))


def _kept_dtype(name: str, variables: Mapping[str, Any]) -> dict[str, Any]:
    """`param_dtype` where the parameters are of one dtype, which is another one than the model has by itself."""
    usual = model_card(name).options.get("param_dtype")
    dtypes = {np.dtype(leaf.dtype).name for leaf in jax.tree.leaves(variables.get("params", {}))}
    return {"param_dtype": dtypes.pop()} if usual and len(dtypes) == 1 and dtypes != {np.dtype(usual).name} else {}


def saved_meta(path: str | Path) -> dict[str, Any]:
    """What is known of a saved model: its name under "model", "model_options" and, where they are known,
    "preprocessing" and "classes".

    Args:
      path: as for `load_model`.

    Raises:
      ValueError: the folder holds no model.
    """
    return read_meta(_checkpoint(path))


def _checkpoint(path: str | Path) -> Path:
    folder = find(path).absolute()
    return best_first(folder)[0] if (folder / CHECKPOINTS).is_dir() else folder


def load_model(path: str | Path) -> Loaded:
    """Builds the model saved under `path` and reads its variables, as NumPy arrays.

        model, variables = zoo.load_model("runs/first")

    Args:
      path: a folder that `save_model` wrote, a run folder (its best checkpoint is taken), or one step of a run; a name
        of `zoo.published.shipped_models()`, which a folder of this name overrides; or `USER/NAME` on the hub of Hugging
        Face, of a model that `zoo push` put there.

    Returns:
      The module and what its `apply` takes, averaged during training (`ema`) where that was asked for; and how images
      are prepared for it, where that was saved.

    Raises:
      ImportError, OSError: as `zoo.published.find`.
      ValueError: the folder holds no model, or a damaged one. Of a run a damaged checkpoint is passed over for the next
        best one.
    """
    folder = find(path).absolute()
    if not (folder / CHECKPOINTS).is_dir():
        return _read_model(folder)
    problem: ValueError | None = None
    for checkpoint in best_first(folder):
        try:
            return _read_model(checkpoint)
        except DamagedError as error:
            _LOG.warning("%s; it is passed over", error)
            problem = error
    assert problem is not None  # `best_first` gives one at least
    raise problem


def _read_model(folder: Path) -> Loaded:
    meta = read_meta(folder)
    if "model" not in meta:
        raise ValueError(f"{folder} is a checkpoint of something else than a registered model")
    check_entries(meta, {}, f"the JSON of {folder}", required=("model_options",))
    for item in ("params", "model_state", "ema"):
        if item in meta.get("items", ()) and not (folder / item).is_dir():
            raise DamagedError(f"the checkpoint {folder} is damaged: its item {item!r} is missing")
    model = _create(folder, meta)
    if is_published(folder):
        variables = read_variables(folder, meta)
    else:
        averaged = read_item(folder, "ema")
        variables = averaged or {"params": read_item(folder, "params"), **read_item(folder, "model_state")}
    if not variables.get("params"):
        raise ValueError(f"{folder} has no parameters, or an average of them that an older version made; train it anew")
    try:
        require_variables(meta["model"], meta["model_options"], variables)
    except ValueError as error:
        raise ValueError(f"{folder}: {error}") from None
    prepared: Any = meta.get("preprocessing")
    if prepared is not None:
        prepared = {k: tuple(v) if isinstance(v, list) else v for k, v in prepared.items()}
        try:
            check_options(Preprocessing, prepared, "the preprocessing")
            prepared = Preprocessing(**prepared)
        except (TypeError, ValueError) as error:
            raise DamagedError(f"the checkpoint {folder} is damaged: {error}") from None
    return Loaded(model, variables, prepared, meta.get("classes", ()), folder)


def _create(folder: Path, meta: Mapping[str, Any]) -> nn.Module:
    """The model that a checkpoint names; where it is a user's own, the error says which file defines it."""
    try:
        return create_model(meta["model"], **meta["model_options"])
    except ValueError as error:
        sources = [code for code in meta.get("code", ()) if code["defines"] == f"model {meta['model']}"]
        if not sources or not str(error).startswith("unknown model"):
            raise
        raise ValueError(
            f"the model {meta['model']!r} in {folder} is defined in {sources[0]['file']}: import it first "
            f"(--import {sources[0]['file']} on the command line)"
        ) from None


def require_variables(
    name: str, options: Mapping[str, Any], variables: Mapping[str, Any], *, sizes: bool = True
) -> None:
    """Refuses variables that are not those of `create_model(name, **options)`.

    Args:
      name: of a registered model.
      options: of the model.
      variables: to look at.
      sizes: whether biases and scales must have the sizes that these options ask for; other shapes may depend on the
        input.

    Raises:
      ValueError: names what is missing and what is unexpected, or of another size.
    """
    model = create_model(name, **options)
    try:
        wanted = abstract_variables(model, model_card(name).example())
    except ValueError:
        return  # with these options the model takes other inputs than its card's example
    ours: dict[str, Any] = flatten_dict(dict(wanted), sep="/")
    theirs: dict[str, Any] = flatten_dict(dict(variables), sep="/")
    if ours.keys() != theirs.keys():
        apart = (ours.keys() - theirs.keys(), theirs.keys() - ours.keys())
        missing, unexpected = (", ".join(sorted(names)[:5]) or "none" for names in apart)
        raise ValueError(f"these are not the variables of {name!r}: missing {missing}; unexpected {unexpected}")
    for path, leaf in ours.items() if sizes else ():
        if len(leaf.shape) == 1 == np.ndim(theirs[path]) and leaf.shape != np.shape(theirs[path]):
            if _depends_on_the_input(name, model, path, leaf.shape):
                continue
            raise ValueError(
                f"these are not the variables of {name!r} with these options: {path} has {np.shape(theirs[path])[0]} "
                f"numbers, not {leaf.shape[0]}; give the options that create_model was given, such as num_classes"
            )


def _depends_on_the_input(name: str, model: nn.Module, path: str, shape: tuple[int, ...]) -> bool:
    """Whether a parameter has another shape for wider inputs, as in a flow, whose outputs are as wide as its inputs."""
    example = model_card(name).example()
    wider = np.zeros((*example.shape[:-1], example.shape[-1] + 1), example.dtype)
    try:
        found: dict[str, Any] = flatten_dict(dict(abstract_variables(model, wider)), sep="/")
    except (TypeError, ValueError):
        return False
    return found[path].shape != shape


def best_first(run: Path) -> list[Path]:
    """The checkpoints of a run by the "score" in their JSON, the highest first and the newest of equals.

    Raises:
      ValueError: the run has no checkpoint yet, or none that can be read. One that cannot be is passed over.
    """
    problem = ValueError(f"{run} has no checkpoint yet")
    # Orbax gives a checkpoint its number for a name when it is complete.
    steps = [folder for folder in (run / CHECKPOINTS).iterdir() if folder.name.isdigit()]
    scores = {}
    for folder in steps:
        try:
            meta = read_meta(folder)
            check_entries(meta, {}, f"the JSON of {folder}", required=("score",))
            scores[folder] = (meta["score"], int(folder.name))
        except ValueError as error:
            problem = error
            _LOG.warning("%s; it is passed over", error)
    if not scores:
        raise problem
    return sorted(scores, key=lambda folder: scores[folder], reverse=True)


def manager(folder: Path, *, keep: int = 2) -> ocp.CheckpointManager:
    """The checkpoints of a run: the last `keep` and the best, which is the one with the highest metric "score"."""

    import orbax.checkpoint as ocp
    from orbax.checkpoint import checkpoint_managers as policies

    def score(metrics: Mapping[str, float]) -> float:
        return metrics["score"]

    options = ocp.CheckpointManagerOptions(
        best_fn=score,
        best_mode="max",
        preservation_policy=policies.AnyPreservationPolicy(
            [policies.LatestN(keep), policies.BestN(get_metric_fn=score, n=1)]
        ),
    )
    return ocp.CheckpointManager(folder.absolute(), options=options)


def composite(items: Mapping[str, Any], meta: Mapping[str, Any]) -> ocp.args.Composite:
    """What Orbax is to save: each pytree of arrays under its name (Orbax refuses empty ones; absent means empty).

    The JSON lists the items that there are, so that one which went missing is told from an empty one, and the checksums
    of their arrays and of itself.
    """
    import orbax.checkpoint as ocp

    present = {name: tree for name, tree in items.items() if jax.tree.leaves(tree)}
    arrays = {name: ocp.args.StandardSave(tree) for name, tree in present.items()}
    meta = {**meta, "items": sorted(arrays), "checksums": checksums(present)}
    return ocp.args.Composite(**arrays, meta=ocp.args.JsonSave({**meta, "checksum": of_json(meta)}))


_META: dict[str, Any] = {
    "model": str,
    "model_options": dict[str, Any],
    "classes": Sequence[str],
    "preprocessing": dict[str, Any],
    "table": dict[str, Any],
    "score": float,
    "history": Sequence[dict[str, float]],
    "finished": int | bool,
    "pause": dict[str, Any],
    "items": Sequence[str],
    "data": dict[str, Any],
    "code": Sequence[dict[str, str]],
    "checksums": dict[str, dict[str, int]],
    "checksum": int | None,
}
"""What the JSON of a checkpoint may hold, beside what older and newer versions know."""


def read_meta(folder: Path) -> dict[str, Any]:
    """The JSON item of one checkpoint.

    Raises:
      ValueError: `folder` is no checkpoint.
      DamagedError: its JSON is damaged.
    """
    try:
        published = is_published(folder)
        meta = read_json(folder / CONFIG) if published else json.loads((folder / "meta" / "metadata").read_text())
    except (FileNotFoundError, NotADirectoryError):
        raise ValueError(
            f"{folder} holds no saved model: expected a folder written by save_model, or a run folder"
        ) from None
    except ValueError as error:
        raise DamagedError(f"the checkpoint {folder} is damaged: {error}") from None
    try:
        check_entries(meta, _META, f"the JSON of {folder}")
    except ValueError as error:
        raise DamagedError(f"the checkpoint is damaged: {error}") from None
    checksum = meta.pop("checksum", None)
    if checksum is not None and checksum != of_json(meta):
        raise DamagedError(f"the checkpoint {folder} is damaged: its JSON is not what was written")
    return meta


def read_item(folder: Path, item: str) -> Any:
    """One item of one checkpoint as a pytree of NumPy arrays; an empty dict where the checkpoint has no such item.

    Raises:
      DamagedError: the item is damaged.
    """
    if not (folder / item).is_dir():
        return {}
    import orbax.checkpoint as ocp
    from etils import epath

    try:
        handler = ocp.PyTreeCheckpointHandler()
        where = epath.Path(folder / item)
        as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), handler.metadata(where).tree)
        tree = handler.restore(where, args=ocp.args.PyTreeRestore(restore_args=as_numpy))
    except Exception as error:  # TensorStore and Orbax raise whatever they met first: JSON, key, value, OS errors
        reason = str(error).strip().splitlines()[0][:200]
        raise DamagedError(f"the checkpoint item {folder / item} is damaged: {reason}") from error
    require_whole(folder, item, tree)
    return tree


def require_whole(folder: Path, item: str, tree: Any) -> None:
    """Refuses an item whose arrays are not what was written.

    Raises:
      DamagedError: names the first such array.
    """
    if bad := damaged_array(tree, read_meta(folder).get("checksums", {}).get(item, {})):
        raise DamagedError(f"the checkpoint item {folder / item} is damaged: {bad} is not what was written")


def plain(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options as JSON holds them, dtypes by name.

    Raises:
      ValueError: names the option that is not plain data.
    """

    def convert(name: str, value: Any) -> Any:
        if value is None or isinstance(value, str | bool | int | float):
            return value
        if isinstance(value, list | tuple):
            return [convert(name, item) for item in value]
        if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
            return {key: convert(name, item) for key, item in value.items()}
        if isinstance(value, np.bool_ | np.integer | np.floating):
            return value.item()
        if isinstance(value, np.dtype) or (isinstance(value, type) and np.dtype(value) != object):
            return np.dtype(value).name  # of any other class NumPy makes the dtype "object"
        raise ValueError(
            f"option {name}={value!r} cannot be saved; give numbers, strings, lists, values by name or a dtype"
        )

    return {name: convert(name, value) for name, value in options.items()}
