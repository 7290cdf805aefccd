"""Recipes on text."""

from train.recipe import Recipe, recipe


@recipe
def char_lstm() -> Recipe:
    """The guide's text generator (section 14.2), two LSTM layers of 128 units, on Tiny Shakespeare.

    Dropout .2 and windows of 100 characters as in the guide, whose network learns from the last character of a window
    alone.

    Command: zoo train char_lstm
    Time: 9 minutes of training on 2 busy CPU cores.
    Reached: 1.54 nats a character on the validation split and 1.67 on the test split (2.22 and 2.41 bits).
    """
    return Recipe(
        model="char_lstm",
        data="tiny_shakespeare",
        data_options={"length": 100},
        task="language_modeling",
        batch_size=64,
        epochs=0.1276,
        learning_rate=2e-2,
        optimizer_options={"clip_norm": 1.0},
        schedule="cosine",
        schedule_options={"warmup_steps": 100},
        validation=0,
        monitor="validation_loss",
        evaluate_every=250,
    )


@recipe
def char_gpt() -> Recipe:
    """nanoGPT's Transformer for a CPU on Tiny Shakespeare: 4 blocks, 4 heads, 128 features, 64 characters of context.

    As there: 2000 steps of 12 windows, AdamW with β₂ = .99, a weight decay of .1 for matrices, gradients clipped to a
    norm of 1, a learning rate that rises over 100 steps and falls to a tenth as a cosine, no dropout. It rises to 2e-3,
    twice as high as there.

    Command: zoo train char_gpt
    Time: 3.5 minutes of training on 2 busy CPU cores.
    nanoGPT validates on what are the validation and the test split here, and tells 1.88 nats a character; another run
    of this recipe had 1.82, and with the lower learning rate 1.91.
    """
    return Recipe(
        model="char_gpt",
        data="tiny_shakespeare",
        data_options={"length": 64},
        task="language_modeling",
        batch_size=12,
        epochs=0.02391,
        optimizer="adamw",
        learning_rate=2e-3,
        optimizer_options={"b2": 0.99, "weight_decay": 0.1, "mask": "kernels", "clip_norm": 1.0},
        schedule="cosine",
        schedule_options={"warmup_steps": 100, "final_fraction": 0.1},
        validation=0,
        monitor="validation_loss",
        evaluate_every=500,
    )


@recipe
def text_classifier() -> Recipe:
    """Any texts in classes: the guide's Transformer (section 8.1) on a folder for each class, or a CSV file.

    Words are learned from the training texts; padding is neither attended to nor counted. The best of 20 epochs is
    kept, by the loss on a fifth of the training texts.

    Command: zoo train text_classifier data=texts:PATH
    Time: 25 s on 2 busy CPU cores for the 4576 lines of `data=shakespeare_speakers validation=0`.
    Reached: there 17.6 % of the test lines, of ten speakers (seed 0; the most frequent one says 19.6 %). A bag of words
      with logistic regression reaches 30 %: few short texts are not what a Transformer is good at from random weights.
    """
    return Recipe(
        model="transformer_classifier",
        data="texts:texts",
        model_options={"dropout_rate": 0.3},
        task_options={"inputs": "tokens"},
        batch_size=32,
        epochs=20.0,
        optimizer="adamw",
        optimizer_options={"weight_decay": 0.1, "mask": "kernels"},
        learning_rate=1e-3,
        schedule="cosine",
        schedule_options={"warmup_steps": 20},
        validation=0.2,
        monitor="validation_loss",
        patience=5,
    )
