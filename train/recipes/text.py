"""Recipes on text."""

from dataclasses import replace

from train.recipe import Recipe, recipe


@recipe
def char_lstm() -> Recipe:
    """The guide's text generator (section 14.2), two LSTM layers of 128 units, on Tiny Shakespeare.

    Dropout .2 and windows of 100 characters as in the guide, whose network learns from the last character of a window
    alone.

    Command: zoo train char_lstm
    Time: 9 minutes of training on 2 busy CPU cores.
    Another run of it reached 2.41 bits a character on the test split.
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
    Time: 70 s on 2 busy CPU cores for the 4733 lines of `data=shakespeare_speakers`.
    Reached: there 18.8 % of the 1255 test lines, of ten speakers (seed 0), where logistic regression on a bag of words
      has 29.9 %: few short texts are not what a Transformer learns from with random weights. From weights it does, see
      `speakers`; for texts of your own, weights=RUN brings the words of that run along.
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
        schedule_options={"warmup_steps": 10},
        validation=0.2,
        monitor="validation_loss",
        patience=5,
    )


@recipe
def pretrain_speakers() -> Recipe:
    """Who of 200 speakers says a line of Tiny Shakespeare: what `speakers` starts from.

    All who speak in a play tell its words: four times as many lines as those of ten speakers. Training leaves out
    three tokens of ten, and the embedding learns thirty times as fast as the rest, since most words are rare. What is
    kept is the average of the parameters.

    Command: zoo train pretrain_speakers
    Time: a minute on 2 busy CPU cores.
    Seeds: three of them reach 9.7, 9.2 and 9.9 % of the 4749 test lines; the right speaker is among the first five for
      28.3, 27.6 and 27.4 %.
    """
    return Recipe(
        model="transformer_classifier",
        data="shakespeare_speakers",
        model_options={
            "hidden_size": 128,
            "num_heads": 4,
            "mlp_dim": 128,
            "head_size": 128,
            "dropout_rate": 0.3,
            "token_dropout_rate": 0.3,
        },
        data_options={"speakers": 200},
        task_options={"inputs": "tokens", "ema_decay": 0.998},
        batch_size=64,
        epochs=7.0,
        optimizer="adamw",
        optimizer_options={"weight_decay": 0.1, "mask": "kernels"},
        learning_rate=1e-3,
        layer_rates={"embed": 3e-2},
        schedule="cosine",
        schedule_options={"warmup_steps": 20},
        monitor="validation_loss",
    )


@recipe
def speakers() -> Recipe:
    """Who of the ten most frequent speakers of Tiny Shakespeare says a line, from the weights of `pretrain_speakers`.

    These have seen no line of a validation or a test split: who else is a class changes no split. The last two layers
    are trained; the weights bring the words along. With others of your own: weights=runs/pretrain_speakers.

    Command: zoo train speakers
    Time: 15 s on 2 busy CPU cores.
    Reached: 31.4 ± 0.9 % of the 1255 test lines, with a loss of 1.945 ± 0.032: mean and standard deviation of three
      pretrainings (31.9, 31.8 and 30.4 % with the seeds 0, 1 and 2 of both). Logistic regression on a bag of words has
      29.9 % and a loss of 2.074, on TF-IDF 28.9 %, naive Bayes 28.6 %. Their strength is chosen by the validation
      split. What helps are the lines of the others: naive Bayes that is smoothed by what is said within 20 speeches of
      a speaker has 32.4 %.
    """
    return replace(
        pretrain_speakers(),
        model_options={},
        data_options={},
        task_options={"inputs": "tokens", "ema_decay": 0.99},
        weights="pretrain_speakers",
        trained_layers=2,
        epochs=6.0,
        learning_rate=3e-3,
        layer_rates={},
    )
