"""Transfer learning on folders of pictures (guide, section 14.1), with all that belongs to it.

Folders are looked for in the working directory, then in the one that `ZOO_DATA_DIR` names.
"""

from dataclasses import replace

from train.recipe import Recipe, recipe

_COMMON = {"image_size": 32, "mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]}
_NARROW = {"stem": "cifar", "features": 16}


@recipe
def pretrain_cifar_folder() -> Recipe:
    """A narrow ResNet-18 on five classes of a folder of CIFAR-10 pictures: what `transfer_cifar_folder` starts from.

    Command: zoo train pretrain_cifar_folder
    Time: 140 s on 2 busy CPU cores.
    Reached: 67.6 % of the 250 test pictures; of 1000 training pictures 100 are held out.
    """
    return Recipe(
        model="resnet18",
        data="folder:cifar10_jpg_subset",
        model_options=_NARROW,
        data_options={**_COMMON, "classes": ["airplane", "automobile", "bird", "cat", "deer"]},
        augmentation="cifar",
        batch_size=50,
        epochs=40.0,
        optimizer="adamw",
        optimizer_options={"weight_decay": 0.05},
        learning_rate=2e-3,
        schedule="cosine",
        schedule_options={"warmup_steps": 40},
        checkpoint_every=2,
    )


@recipe
def transfer_cifar_folder() -> Recipe:
    """The other five classes in four epochs, from the weights of `pretrain_cifar_folder` and with a new head.

    Command: zoo train pretrain_cifar_folder && zoo train transfer_cifar_folder
    Time: 30 s on 2 busy CPU cores.
    Reached: 66.8 ± 2.4 % of the 250 test pictures (68.0 % of the 200 held out): mean and standard deviation over the
      seeds 0, 1 and 2. From random weights (weights=None) on the same budget 58.9 ± 0.6 % (59.7 %), less with each
      seed. With the head alone trained (trained_layers=1) 50.3 ± 4.8 %: features of 900 pictures are too few to be left
      as they are. This holds for short trainings: in trials of 12 and 20 epochs scratch had caught up.
    """
    return Recipe(
        model="resnet18",
        data="folder:cifar10_jpg_subset",
        model_options=_NARROW,
        data_options={**_COMMON, "classes": ["dog", "frog", "horse", "ship", "truck"]},
        augmentation="guide",
        weights="runs/pretrain_cifar_folder",
        batch_size=25,
        epochs=4.0,
        evaluate_every=16,
        learning_rate=1e-3,
        plateau_options={"patience": 3, "factor": 0.5},
        validation=0.2,
        patience=10,
    )


@recipe
def pretrain_efficientnet_folder() -> Recipe:
    """EfficientNet-B0 on five classes of a folder of CIFAR-10 pictures, which are 64×64 to it.

    Where `efficientnet_folder` takes ImageNet's weights instead, `weights=timm/efficientnet_b0.ra_in1k`, it is not
    needed.

    Command: zoo train pretrain_efficientnet_folder
    Time: 5.5 minutes of training on 2 busy CPU cores.
    Reached: 56.4 % of the 250 test pictures; of 1000 training pictures 100 are held out.
    """
    narrow = pretrain_cifar_folder()
    options = {**narrow.data_options, "image_size": 64}
    return replace(narrow, model="efficientnet_b0", model_options={}, data_options=options)


@recipe
def efficientnet_folder() -> Recipe:
    """The guide's project of image classification (section 14.1): EfficientNet-B0, pretrained, on other pictures.

    As there: a fifth of the training pictures is held out, the best checkpoint is kept, the learning rate falls on a
    plateau of 3 epochs, training stops after 10 without a better one, TensorBoard is told. All layers are trained; the
    guide's frozen base is trained_layers=1. On a GPU or a TPU add precision=bfloat16; on a CPU convolutions in it are
    several times slower.

    Command: zoo train pretrain_efficientnet_folder && zoo train efficientnet_folder
    Time: 3 minutes of training on 2 busy CPU cores.
    Reached: 65.6 % of the 250 test pictures of the other five classes; from random weights (weights=None), with twice
      the learning rate and twice the time, 59.2 %. One seed each.
    """
    narrow = transfer_cifar_folder()
    return replace(
        narrow,
        model="efficientnet_b0",
        model_options={},
        data_options={**narrow.data_options, "image_size": 64},
        weights="runs/pretrain_efficientnet_folder",
        batch_size=32,
        epochs=50.0,
        evaluate_every=None,
        optimizer="adamw",
        optimizer_options={"weight_decay": 0.05},
        learning_rate=5e-4,
        plateau_options={"patience": 3, "factor": 0.3},
    )


@recipe
def finetune() -> Recipe:
    """Any folder of pictures, from the weights of a run, of `zoo convert` or of a published file, with a new head.

    The head learns ten times as fast as the rest. The best of up to 30 epochs is kept, by the loss on a fifth of the
    training pictures; training stops after 6 epochs without a better one. For many pictures take a larger batch
    (batch_size=128), for few the head alone (trained_layers=1), for a small network such as LeNet-5 ten times the rates
    (learning_rate=1e-3 layer_rates.head=1e-2).

    Command: zoo train finetune data=folder:PICTURES weights=WEIGHTS
    Time: 30 s on 2 busy CPU cores for 60 pictures of 32×32.
    Reached: from `pretrain_cifar_folder`, on 20 pictures each of dogs, ships and trucks, 70.0 and 74.7 % of 150 others
      (seeds 0 and 1; the head alone 58.7 and 71.3 %); on 200 pictures each 80.7 %.
    """
    return Recipe(
        model="",
        data="folder:pictures",
        augmentation="guide",
        batch_size=16,
        epochs=30.0,
        optimizer="adamw",
        optimizer_options={"weight_decay": 0.01},
        learning_rate=1e-4,
        layer_rates={"head": 1e-3},
        schedule="cosine",
        validation=0.2,
        monitor="validation_loss",
        patience=6,
    )
