"""Recipes on sequences of numbers."""

from train.recipe import Recipe, recipe


def _sum_sequence(model: str) -> Recipe:
    """As the guide trains: Adam, mean squared error, 20 epochs, batches of 32, a fifth held out."""
    return Recipe(
        model=model,
        data="sum_sequence",
        task="regression",
        batch_size=32,
        epochs=20.0,
        validation=0.2,
        monitor="validation_loss",
    )


@recipe
def lstm_sum() -> Recipe:
    """The guide's LSTM (section 6.3.2) adds up 50 normal numbers.

    Command: zoo train lstm_sum
    Time: 9 s of training on 2 busy CPU cores.
    """
    return _sum_sequence("lstm_regressor")


@recipe
def gru_sum() -> Recipe:
    """The guide's GRU (section 6.3.2) adds up 50 normal numbers.

    `zoo compare runs/lstm_sum runs/gru_sum` draws it over the LSTM.

    Command: zoo train gru_sum
    Time: 9 s of training on 2 busy CPU cores.
    """
    return _sum_sequence("gru_regressor")


@recipe
def bilstm_sum() -> Recipe:
    """The guide's bidirectional LSTM (section 6.4) adds up 50 normal numbers.

    Command: zoo train bilstm_sum
    Time: 12 s of training on 2 busy CPU cores.
    It has no dropout. The variance of the test targets is 50.
    """
    return _sum_sequence("bilstm_regressor")


@recipe
def attention_sum() -> Recipe:
    """The guide's LSTM with additive attention (section 7.2) adds up 50 normal numbers.

    Command: zoo train attention_sum
    Time: 9 s of training on 2 busy CPU cores.
    It has no dropout. The variance of the test targets is 50.
    """
    return _sum_sequence("attention_regressor")
