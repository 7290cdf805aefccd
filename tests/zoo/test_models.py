"""What every registered model must do, driven by the table in `tests.descriptors`. What compiles is marked slow."""

from __future__ import annotations

import functools

import chex
import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

import zoo
from tests.descriptors import MODELS, by_representatives, random_variables
from zoo.layers import BATCH_AXIS
from zoo.summary import abstract_variables, count_parameters

BATCH = 16
WITHOUT_BATCH_NORM = (
    *("perceptron", "mlp", "lenet5", "autoencoder", "conv_autoencoder", "vae", "ddpm_unet"),
    *("alexnet", "vgg11", "convnext_tiny", "vit_tiny_patch16_224"),
    *("ode_net", "ode_net_without_block", "neural_ode", "ffjord", "latent_ode"),
    *("lstm_regressor", "gru_regressor", "bilstm_regressor", "attention_regressor", "char_lstm"),
    *("gcn", "graphsage", "gat", "appnp", "gcnii", "graph_network"),
    *("transformer_classifier", "transformer_base", "gpt2", "llama_15m", "bert_tiny"),
)
# Of variants that are the same module when they are small, the first stands for all.
SMALL = {zoo.create_model(name, **row.small): name for name, row in reversed(MODELS.items())}.values()

every_model = pytest.mark.parametrize("name", [n for n in MODELS if n in SMALL])
representatives = by_representatives(n for n in MODELS if n in SMALL)
with_batch_norm = [n for n in MODELS if n in SMALL and n not in WITHOUT_BATCH_NORM]
of_floats = pytest.mark.parametrize(
    "name", [n for n in MODELS if n in SMALL and zoo.model_card(n).input_dtype == "float32"]
)
of_images = pytest.mark.parametrize("name", [n for n in MODELS if n in SMALL and len(MODELS[n].shape) == 3])


@functools.cache
def small(name, **options):
    """The small variant of a model; equal modules hash alike, so that the compiled functions below are shared."""
    return zoo.create_model(name, **{**MODELS[name].small, **options})


@functools.cache
def variables_of(name, **options):
    return random_variables(small(name, **options), example(name, 1))


@functools.cache
def example(name, batch_size=BATCH):
    rng, shape = np.random.default_rng(1), (batch_size, *MODELS[name].shape)
    if zoo.model_card(name).input_dtype == "int32":
        return rng.integers(0, MODELS[name].small["vocab_size"], shape, np.int32)
    return rng.normal(size=shape).astype(np.float32)


of_a_model = functools.partial(jax.jit, static_argnums=0)


@of_a_model
def initialise(model, x):
    """The key is of the hardware's generator, which compiles several times faster than threefry."""
    return model.init(jax.random.key(0, impl="rbg"), x)


@of_a_model
def infer(model, variables, x):
    """The output, and what inference writes."""
    return model.apply(variables, x, mutable=["batch_stats", "intermediates"])


@of_a_model
def train(model, variables, x):
    """Output, updated statistics and gradients of a loss that is a mean over the batch."""

    def loss(params):
        rngs = {"dropout": jax.random.key(0), "latent": jax.random.key(1)}
        y, updates = model.apply({**variables, "params": params}, x, train=True, rngs=rngs, mutable=["batch_stats"])
        return sum(jnp.square(leaf - 1).mean() for leaf in jax.tree.leaves(y)), (y, updates)

    grads, (y, updates) = jax.grad(loss, has_aux=True)(variables["params"])
    return y, updates, grads


def assert_close(actual, wanted, rtol):
    """The greatest deviation in each array is within `rtol` of that array's greatest value."""
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(wanted), strict=True):
        a, b = np.asarray(a, np.float32), np.asarray(b, np.float32)
        np.testing.assert_allclose(a, b, rtol=0, atol=rtol * max(np.abs(b).max(), 1e-6))


def test_table_and_registry_name_the_same_models():
    assert sorted(MODELS) == zoo.list_models(), "add a row to tests/descriptors.py for every registered model"


@by_representatives(MODELS, pytest.mark.slow)
def test_exact_parameter_count(name):
    card = zoo.model_card(name)
    params = abstract_variables(zoo.create_model(name), card.example())["params"]
    assert count_parameters(params) == MODELS[name].num_parameters == card.num_parameters


@pytest.mark.slow
@every_model
def test_init_and_forward(name):
    model, variables = small(name), initialise(small(name), example(name))
    chex.assert_tree_all_finite(variables)
    chex.assert_trees_all_equal_shapes_and_dtypes(variables, variables_of(name))
    y, _ = infer(model, variables, example(name))
    assert [leaf.shape for leaf in jax.tree.leaves(y)] == [(BATCH, *shape) for shape in MODELS[name].shapes]
    chex.assert_type(jax.tree.leaves(y), jnp.float32)
    chex.assert_tree_all_finite(y)


@pytest.mark.slow
@every_model
def test_nan_comes_through(name):
    """What is no number must not become one on the way: a training on it is to be stopped."""
    x = example(name)
    if np.issubdtype(x.dtype, np.floating):
        y, _ = infer(small(name), variables_of(name), np.full_like(x, np.nan))
        assert all(np.isnan(leaf).all() for leaf in jax.tree.leaves(y))


@every_model
def test_types_and_shapes(name):
    """Nothing is compiled."""
    model, x = small(name), example(name)
    variables = abstract_variables(model, x)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    assert set(variables) <= {"params", "batch_stats"}, "init returns what apply needs, no intermediates"
    for size in (BATCH, 1):
        y = jax.eval_shape(model.apply, variables, x[:size])
        assert [leaf.shape for leaf in jax.tree.leaves(y)] == [(size, *shape) for shape in MODELS[name].shapes]
    y, updates, grads = jax.eval_shape(functools.partial(train.__wrapped__, model), variables, x)
    assert [leaf.shape[0] for leaf in jax.tree.leaves(y)] == [BATCH] * len(jax.tree.leaves(y))
    chex.assert_trees_all_equal_shapes_and_dtypes({"params": grads, **updates}, variables)


@pytest.mark.slow
@representatives
def test_jit_is_no_jit(name):
    model, variables, x = small(name), variables_of(name), example(name)
    assert_close(model.apply(variables, x), infer(model, variables, x)[0], rtol=1e-5)


@pytest.mark.slow
@every_model
def test_inference_changes_nothing_and_needs_no_key(name):
    _, updates = infer(small(name), variables_of(name), example(name))
    chex.assert_trees_all_equal(updates.get("batch_stats", {}), variables_of(name).get("batch_stats", {}))


@pytest.mark.slow
@every_model
def test_without_classes_features_come_out(name):
    row = MODELS[name]
    if row.num_features is None:
        assert "num_classes" not in zoo.model_card(name).options
        return
    model = small(name, num_classes=0)
    features = jax.eval_shape(model.apply, variables_of(name, num_classes=0), example(name))
    chex.assert_shape(features, (BATCH, row.num_features))
    whole, headless = variables_of(name)["params"], variables_of(name, num_classes=0)["params"]
    (head,) = set(whole) - set(headless)
    kernels = [leaf for path, leaf in jax.tree.leaves_with_path(whole[head]) if "kernel" in jax.tree_util.keystr(path)]
    chex.assert_shape(kernels, (row.num_features, row.num_outputs))


@pytest.mark.slow
@every_model
def test_the_gradient_reaches_every_parameter(name):
    _, updates, grads = train(small(name), variables_of(name), example(name))
    chex.assert_tree_all_finite((updates, grads))
    leaves = jax.tree.leaves_with_path(grads)
    idle = [jax.tree_util.keystr(path, simple=True, separator="/") for path, g in leaves if not np.any(g)]
    assert idle == sorted(MODELS[name].idle), f"no gradient for {idle}"


@pytest.mark.slow
@pytest.mark.parametrize("name", with_batch_norm)
def test_training_moves_every_statistic(name):
    _, updates, _ = train(small(name), variables_of(name), example(name))
    moved = jax.tree.map(
        lambda old, new: bool(np.all(old != new)), variables_of(name)["batch_stats"], updates["batch_stats"]
    )
    assert all(jax.tree.leaves(moved)), moved


@pytest.mark.slow
@representatives
def test_bfloat16(name):
    model, x = small(name, dtype="bfloat16"), example(name)
    chex.assert_trees_all_equal_shapes_and_dtypes(abstract_variables(model, x), abstract_variables(small(name), x))
    y, _ = infer(model, variables_of(name), x)
    chex.assert_type(jax.tree.leaves(y), jnp.bfloat16)
    assert_close(y, infer(small(name), variables_of(name), x)[0], rtol=0.05)
    y, updates, grads = jax.eval_shape(functools.partial(train.__wrapped__, model), variables_of(name), x)
    chex.assert_type(jax.tree.leaves(y), jnp.bfloat16)
    assert {leaf.dtype for leaf in jax.tree.leaves((updates, grads))} == {jnp.dtype("float32")}


def as_one_batch(y):
    """What the devices give each, `[devices, batch, …]`, as one batch."""
    return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), y)


@pytest.mark.slow
@representatives
def test_pmap_is_jit_in_inference(name):
    model, variables, x = small(name), variables_of(name), example(name)
    devices = jax.local_device_count()
    assert devices == 8
    shards = x.reshape(devices, BATCH // devices, *x.shape[1:])
    y = jax.pmap(model.apply, axis_name=BATCH_AXIS, in_axes=(None, 0))(variables, shards)
    assert_close(as_one_batch(y), infer(model, variables, x)[0], rtol=1e-5)


@pytest.mark.slow
@by_representatives(with_batch_norm)
def test_pmap_is_jit_in_training(name):
    """Eight devices with two examples each normalise by all sixteen; the tolerance is 1e-4 of the greatest value.

    Dropout is off, for each device draws its own mask from the same key.
    """
    options = {"dropout_rate": 0.0, "drop_path_rate": 0.0}
    options = {option: rate for option, rate in options.items() if option in zoo.model_card(name).options}
    model, variables, x = small(name, **options), variables_of(name), example(name)
    wanted, wanted_updates, _ = train(model, variables, x)

    @functools.partial(jax.pmap, axis_name=BATCH_AXIS, in_axes=(None, 0))
    def forward(variables, x):
        return model.apply(variables, x, train=True, mutable=["batch_stats"])

    y, updates = forward(variables, x.reshape(8, BATCH // 8, *x.shape[1:]))
    assert_close(as_one_batch(y), wanted, rtol=1e-4)
    for device in (0, 7):
        assert_close(jax.tree.map(lambda leaf, device=device: leaf[device], updates), wanted_updates, rtol=1e-4)


@pytest.mark.slow
@representatives
def test_exports_with_any_batch_size(name):
    """For all platforms at once; and an example does not depend on its batch."""
    platforms = ("cpu", "cuda", "tpu")
    model, variables = small(name), variables_of(name)
    (batch,) = export.symbolic_shape("batch")
    x = jax.ShapeDtypeStruct((batch, *MODELS[name].shape), zoo.model_card(name).input_dtype)
    exported = export.export(jax.jit(model.apply), platforms=platforms)(variables, x)
    assert exported.platforms == platforms
    assert [y.shape for y in exported.out_avals] == [(batch, *shape) for shape in MODELS[name].shapes]
    first = jax.tree.map(lambda y: y[:3], infer(model, variables, example(name))[0])
    assert_close(exported.call(variables, example(name)[:3]), first, rtol=1e-5)


@pytest.mark.slow
@every_model
def test_intermediates_by_name(name):
    _, extra = infer(small(name), variables_of(name), example(name))
    shapes = jax.tree.map(lambda leaf: leaf.shape[1:], extra.get("intermediates", {}))
    assert shapes == MODELS[name].intermediates


@of_images
@pytest.mark.parametrize("shape", [(2, 8), (8, 8, 1), (2, 3, 8, 8, 1), (2, 0, 8, 1)])
def test_refuses_what_is_no_image(name, shape):
    with pytest.raises(
        ValueError, match=r"takes images of shape \[batch, height ≥ \d+, width ≥ \d+, channels\], not \["
    ):
        small(name).init(jax.random.key(0), jnp.zeros(shape))


@pytest.mark.parametrize(
    ("name", "least"),
    [
        *(("cnn", 8), ("lenet5", 32), ("mini_resnet", 2), ("alexnet", 63), ("vgg11", 4), ("densenet121", 5)),
        *(("convnext_tiny", 8), ("vit_tiny_patch16_224", 2)),
    ],
)
def test_refuses_images_that_are_too_small(name, least):
    for size in ((least - 1, least), (least, least - 1)):
        with pytest.raises(
            ValueError, match=rf"height ≥ {least}, width ≥ {least}, channels\], not \[1, {size[0]}, {size[1]}, 1\]"
        ):
            small(name).init(jax.random.key(0), jnp.zeros((1, *size, 1)))


@pytest.mark.slow
@of_floats
def test_refuses_another_number_of_channels(name):
    x = example(name, 1)
    with pytest.raises((flax.errors.ScopeParamShapeError, ValueError), match=r"kernel|of shape|generate shape"):
        jax.eval_shape(small(name).apply, variables_of(name), np.concatenate([x, x], axis=-1))


def test_an_unknown_stem_is_refused():
    with pytest.raises(ValueError, match="stem of model 'resnet18' must be 'imagenet' or 'cifar', not 'nothing'"):
        zoo.create_model("resnet18", stem="nothing")
    model = zoo.create_model("resnet18").clone(stem="nothing")
    with pytest.raises(ValueError, match="stem must be"):
        model.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "norms"), [("resnet18", 2), ("resnet50", 3)])
def test_residual_blocks_start_as_identities(name, norms):
    params = initialise(small(name), example(name))["params"]
    blocks = [block for block in params if block.endswith("_block1")]
    assert len(blocks) == len(small(name).stage_sizes)
    for block in blocks:
        scales = [params[block][f"norm{i + 1}"]["scale"] for i in range(norms)]
        assert [sorted(set(scale.tolist())) for scale in scales] == [*[[1.0]] * (norms - 1), [0.0]]


def test_a_vit_takes_whole_patches():
    with pytest.raises(ValueError, match=r"multiples of 2, not 4 × 5 \(image_size 4\); resize, crop or pad"):
        small("vit_tiny_patch16_224").init(jax.random.key(0), jnp.zeros((1, 4, 5, 3)))


_BLOCK, _DECODER_BLOCK = [0.25, 0.0, 0.25], [0.25, 0.25, 0.0, 0.25]
DROPPED = {
    "mlp": [0.25] * 2,  # of each hidden layer
    "cnn": [0.25],
    "mini_resnet": [0.15, 0.3, 0.25],  # branches, and what the head sees
    "gan": [0.25] * 2,
    "alexnet": [0.25] * 2,
    "vgg11": [0.25] * 2,
    "densenet121": [0.25] * 3,  # of each dense layer
    "mobilenet_v3_large": [0.25],
    "efficientnet_b0": [0.2, 0.25],  # branches with a shortcut: the rate of the third block of three, 2/3 of 0.3
    "convnext_tiny": [0.15, 0.3],  # branches, from 0 to 0.3
    "vit_tiny_patch16_224": [0.25, *[0.25] * 3 * 2],  # embeddings, and all dense layers of each block but q, k and v
    "ddpm_unet": [0.25] * 6,  # of each residual block
    "bert_tiny": [0.25, *_BLOCK * 2, 0.25],  # embeddings, the two sums of each block, what the head sees
    "gpt2": [0.25, *_BLOCK * 2],
    "transformer_classifier": [*_BLOCK * 2, 0.25],
    "transformer_base": [0.25, *_BLOCK * 2, 0.25, *_DECODER_BLOCK * 2],
    "char_lstm": [0.25] * 2,
    "lstm_regressor": [0.25] * 2,
}
"""Rates in the order of use, of the small variants; 0 stands for the units between the dense layers of a block."""


@pytest.mark.slow
@pytest.mark.parametrize("name", DROPPED)
def test_dropout_is_where_the_papers_have_it(name):
    rates, known = {"dropout_rate": 0.25, "drop_path_rate": 0.3}, zoo.model_card(name).options
    model = small(name, **{option: rate for option, rate in rates.items() if option in known})
    found = []

    def look(call, args, options, context):
        if isinstance(context.module, zoo.layers.Dropout) and options.get("train"):
            found.append(round(context.module.rate, 6))
        return call(*args, **options)

    with nn.intercept_methods(look):
        rngs = {stream: jax.random.key(0) for stream in ("params", "dropout")}
        jax.eval_shape(functools.partial(model.init, train=True), rngs, example(name))
    assert found == DROPPED[name]


@pytest.mark.parametrize(
    ("name", "option"),
    [
        *((name, "dropout_rate") for name in ("mlp", "cnn", "alexnet", "vgg11", "densenet121", "mobilenet_v3_large")),
        *((name, "dropout_rate") for name in ("efficientnet_b0", "vit_tiny_patch16_224")),
        *((name, "dropout_rate") for name in ("transformer_classifier", "transformer_base", "gpt2", "bert_tiny")),
        *((name, "dropout_rate") for name in ("lstm_regressor", "gru_regressor", "bilstm_regressor", "char_lstm")),
        *((name, "drop_path_rate") for name in ("efficientnet_b0", "convnext_tiny", "mini_resnet")),
        *(("mini_resnet", option) for option in ("dropout_rate", "spatial_dropout_rate")),
    ],
)
@pytest.mark.slow
def test_dropout_acts_in_training_alone(name, option):
    others = {"dropout_rate", "drop_path_rate", "spatial_dropout_rate"} & set(zoo.model_card(name).options)
    model, variables, x = small(name, **{**dict.fromkeys(others, 0.0), option: 0.5}), variables_of(name), example(name)

    forward = functools.partial(model.apply, train=True, mutable=["batch_stats"])
    run = jax.jit(lambda key: forward(variables, x, rngs={"dropout": key})[0])
    first, again, other = (run(jax.random.key(seed)) for seed in (0, 0, 1))
    chex.assert_trees_all_equal(first, again)
    assert np.any(first != other)
    with pytest.raises(flax.errors.InvalidRngError):
        jax.eval_shape(forward, variables, x)
