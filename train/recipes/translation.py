"""Recipes that make one text of another."""

from train.recipe import Recipe, recipe


@recipe
def transformer_dates() -> Recipe:
    """A small encoder–decoder puts dates, written in ten ways, into ISO 8601: "3rd of March, 1998" → "1998-03-03".

    Command: zoo train transformer_dates
    Time: 3 minutes of training on 2 busy CPU cores.
    The test dates are on days that it was not trained on.
    """
    return Recipe(
        model="transformer_tiny",
        data="dates",
        task="seq2seq",
        model_options={"max_len": 16},
        task_options={"label_smoothing": 0.1},
        batch_size=128,
        epochs=4.0,
        learning_rate=2e-3,
        schedule="cosine",
        schedule_options={"warmup_steps": 200},
        validation=1000,
        monitor="validation_sequence_accuracy",
    )
