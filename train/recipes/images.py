"""Recipes on pictures of digits."""

from train.recipe import Recipe, recipe


@recipe
def mlp_digits() -> Recipe:
    """The guide's multi-layer perceptron (section 2.4.3) on scikit-learn's 8×8 digits."""
    return Recipe(
        model="mlp",
        data="digits",
        data_options={"flat": True, "standardize": True},
        task_options={"label_smoothing": 0.1},
        batch_size=32,
        epochs=50.0,
        learning_rate=5e-3,
        schedule="cosine",
        checkpoint_every=10,
    )


@recipe
def lenet5_digits() -> Recipe:
    """LeNet-5 on scikit-learn's 8×8 digits, enlarged to 32×32."""
    return Recipe(
        model="lenet5",
        data="digits",
        data_options={"upsample": 4},
        batch_size=32,
        epochs=20.0,
        learning_rate=2e-3,
        schedule="cosine",
        checkpoint_every=5,
    )


@recipe
def lenet5_mnist() -> Recipe:
    """LeNet-5 on MNIST, padded to 32×32 as in 1998."""
    return Recipe(
        model="lenet5",
        data="mnist",
        data_options={"pad": 2},
        batch_size=128,
        epochs=12.0,
        optimizer="adamw",
        learning_rate=3e-3,
        optimizer_options={"weight_decay": 0.1},
        schedule="cosine",
        schedule_options={"warmup_steps": 100},
        validation=5000,
    )


@recipe
def cnn_mnist() -> Recipe:
    """The guide's convolutional network (section 5.3.1) on MNIST."""
    return Recipe(
        model="cnn",
        data="mnist",
        batch_size=128,
        epochs=10.0,
        schedule="cosine",
        validation=5000,
    )


@recipe
def resnet18_mnist() -> Recipe:
    """ResNet-18 with its ImageNet stem on MNIST's 28×28 images."""
    return Recipe(
        model="resnet18",
        data="mnist",
        batch_size=128,
        epochs=2.0,
        optimizer="adamw",
        optimizer_options={"weight_decay": 1e-4},
        schedule="cosine",
        schedule_options={"warmup_steps": 100},
        validation=5000,
    )
