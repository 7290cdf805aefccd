"""Transfer learning on a folder of pictures (guide, section 14.1), with all that belongs to it.

The pictures are looked for in the working directory, then in the folder that `ZOO_DATA_DIR` names.
"""

from train.recipe import Recipe, recipe

_COMMON = {"image_size": 32, "mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]}
_NARROW = {"stem": "cifar", "features": 16}


@recipe
def pretrain_cifar_folder() -> Recipe:
    """A narrow ResNet-18 on five classes of a folder of CIFAR-10 pictures: what `transfer_cifar_folder` starts from.

    Command: zoo train pretrain_cifar_folder
    Time: 200 s on 2 busy CPU cores.
    Reached: 63.6 % of the 250 test pictures; 1000 pictures are trained on, 100 of them held out.
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
    Time: 40 s on 2 busy CPU cores.
    Reached: 64.4 ± 3.4 % of the 250 test pictures (68.7 % of the 200 held out), mean and deviation over the seeds 0, 1
      and 2; from random weights (weights=None) on the same budget 57.9 ± 3.8 % (60.2 %), and less with each of the
      seeds. With the head alone trained (trained_layers=1) 49.3 ± 4.7 %: features of 900 pictures are too few to be
      left as they are. It holds for short trainings: in trials of 12 and 20 epochs scratch had caught up.
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
