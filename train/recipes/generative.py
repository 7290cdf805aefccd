"""Recipes of models that make images. They write some after each evaluation, to `samples/` in the folder of the run."""

from train.recipe import Recipe, recipe


@recipe
def autoencoder_digits() -> Recipe:
    """A dense autoencoder on scikit-learn's 8×8 digits (guide, section 9.1): 64–64–32–8 and back.

    Command: zoo train autoencoder_digits
    Time: 5 s of training on 2 CPU cores.
    """
    return Recipe(
        model="autoencoder",
        data="digits",
        task="reconstruction",
        model_options={"hidden_sizes": [64, 32], "latent_size": 8},
        batch_size=32,
        epochs=60.0,
        learning_rate=3e-3,
        schedule="cosine",
        monitor="validation_loss",
        evaluate_every=200,
    )


@recipe
def vae_digits() -> Recipe:
    """The guide's VAE, with a wider dense layer and fewer latents, on scikit-learn's 8×8 digits.

    Command: zoo train vae_digits
    Time: 15 s of training on 2 CPU cores.
    """
    return Recipe(
        model="vae",
        data="digits",
        task="vae",
        model_options={"hidden_size": 64, "latent_size": 8},
        batch_size=32,
        epochs=60.0,
        learning_rate=3e-3,
        schedule="cosine",
        monitor="validation_loss",
        evaluate_every=200,
    )


@recipe
def gan_digits() -> Recipe:
    """The guide's GAN, half as wide, on scikit-learn's 8×8 digits, with the discriminator of `gan_mnist`.

    Command: zoo train gan_digits
    Time: 25 s of training on one CPU core.
    Seeds: in samples of three of them, another training of `lenet5_digits` than the one that ships had a confidence of
    0.947, 0.955 and 0.952 on average, in real images 0.984. The Fréchet distance of the first was 2.8, that between
    training and test images 1.2; without the say of the discriminator (`zoo.gan.resample`) they were 0.931 and 5.2.
    """
    return Recipe(
        model="gan",
        data="digits",
        task="gan",
        model_options={
            "latent_size": 32,
            "generator_features": [64, 64, 32],
            "discriminator_features": [32, 64, 128],
            "dropout_rate": 0.0,
        },
        task_options={"ema_decay": 0.99},
        batch_size=32,
        epochs=60.0,
        learning_rate=1e-3,
        optimizer_options={"b1": 0.5},
        monitor="step",
        evaluate_every=200,
    )


@recipe
def diffusion_digits() -> Recipe:
    """A DDPM with a U-Net of two levels on scikit-learn's 8×8 digits.

    Command: zoo train diffusion_digits
    Time: about a minute of training on 2 CPU cores.
    """
    return Recipe(
        model="ddpm_unet",
        data="digits",
        task="diffusion",
        model_options={"features": [32, 64]},
        task_options={"schedule": "cosine", "ema_decay": 0.99},
        batch_size=64,
        epochs=50.0,
        learning_rate=2e-3,
        schedule="cosine",
        monitor="validation_loss",
        evaluate_every=200,
    )


@recipe
def autoencoder_mnist() -> Recipe:
    """A dense autoencoder on MNIST (guide, section 9.1): 784–128–64–32 and back.

    Command: zoo train autoencoder_mnist
    Time: 40 s of training on 2 CPU cores.
    """
    return Recipe(
        model="autoencoder",
        data="mnist",
        task="reconstruction",
        batch_size=128,
        epochs=20.0,
        learning_rate=2e-3,
        schedule="cosine",
        validation=5000,
        monitor="validation_loss",
    )


@recipe
def vae_mnist() -> Recipe:
    """The guide's VAE (section 9.2) on MNIST, with grey levels for probabilities.

    The dense layer has 256 units. Through the guide's 16 too little of an image passes: after two epochs its −ELBO on
    the validation split is 159 nats, and with 256 units 112. The learning rate rises over 500 steps; where it starts
    high, the decoder learns to ignore the latents. The importance-weighted bound with 64 samples is −94.4 nats.

    Command: zoo train vae_mnist
    Time: 15 minutes of training on one CPU core.
    """
    return Recipe(
        model="vae",
        data="mnist",
        task="vae",
        model_options={"hidden_size": 256},
        batch_size=128,
        epochs=20.0,
        schedule="cosine",
        schedule_options={"warmup_steps": 500},
        validation=5000,
        monitor="validation_loss",
    )


@recipe
def gan_mnist() -> Recipe:
    """The guide's GAN (section 10) on MNIST, half as wide: Adam with β₁ = 0.5, labels with noise of 0.05.

    The discriminator has a third convolution and no dropout. The last of the guide's two sees 7×7 pixels, too few to
    tell whether strokes make up a digit. Images are drawn with an average of the weights and of the statistics of batch
    norm.

    The guide's widths are model_options.latent_size=100, generator_features=[128,128,64] and
    discriminator_features=[64,128,256]. With learning_rate=5e-4 and epochs=15, an hour on one CPU core and 68 s on an
    H200, they reach 0.959 in the eyes of `cnn_mnist` (0.995 in real images) and a Fréchet distance of 10,000 images of
    88, that between training and test images being 3. Without the say of the discriminator (`zoo.gan.resample`) they
    are 0.926 and 192. So drawn, and judged by another training of `cnn_mnist`, two convolutions of the discriminator
    reached 0.92 where three reached 0.945; dropout of 0.3 makes for 0.939 after ten epochs.

    Command: zoo train gan_mnist
    Time: 13 minutes of CPU time.
    Reached: samples of all ten classes, in which `lenet5_mnist` has a confidence of 0.938 on average (0.992 in real
    ones); the Fréchet distance of 10,000 is 0.919, that between training and test images 0.095.
    """
    return Recipe(
        model="gan",
        data="mnist",
        task="gan",
        model_options={
            "latent_size": 32,
            "generator_features": [64, 64, 32],
            "discriminator_features": [32, 64, 128],
            "dropout_rate": 0.0,
        },
        task_options={"ema_decay": 0.999},
        batch_size=64,
        epochs=10.0,
        learning_rate=1e-3,
        schedule="cosine",
        optimizer_options={"b1": 0.5},
        validation=5000,
        monitor="step",
    )


@recipe
def diffusion_mnist() -> Recipe:
    """A DDPM with the small U-Net on MNIST.

    Command: zoo train diffusion_mnist
    Time: 99 minutes of training on one busy CPU core, 3 on an H200.
    Reached: samples of all ten classes, in which the network of `cnn_mnist` has a confidence of 0.962 on average (0.996
    in real ones); the Fréchet distance of 2000 is 64, that between training and test images 23. Drawn by 50 steps of
    DDIM, without fresh noise, they are 0.947 and 139.
    """
    return Recipe(
        model="ddpm_unet",
        data="mnist",
        task="diffusion",
        task_options={"schedule": "cosine", "ema_decay": 0.999},
        batch_size=64,
        epochs=8.0,
        learning_rate=1e-3,
        schedule="cosine",
        schedule_options={"warmup_steps": 200},
        validation=5000,
        monitor="validation_loss",
    )
