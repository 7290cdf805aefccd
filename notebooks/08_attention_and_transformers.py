# %% [markdown]
# # Attention and Transformers
#
# A network that looks up what it needs: chapters 7 and 8 of *Deep Learning & Neural Networks: a comprehensive guide*.
# Numbers in parentheses are the guide's equations. We build attention from its formula, train a small Transformer that
# reads dates, look at what it looks at, and end with a network that tells who says a line. It takes about a minute on a
# CPU.

# %%
try:
    import zoo
except ImportError:  # from PyPI, or from a wheel beside this notebook
    # %pip install -q --find-links . flaxzoo
    import zoo

# %%
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from scipy.sparse import csr_matrix
from sklearn.linear_model import LogisticRegression

import data
from data.text import tokens
from train import loop
from train.decode import decode, exact_match
from train.inference import predict
from train.recipe import get_recipe
from train.run import train
from train.schedules import schedule
from train.tasks import seq2seq

LARGE = jax.default_backend() != "cpu"  # on an accelerator we train longer
plt.style.use("train.measure.pictures")

# %% [markdown]
# ## Attention (section 7.1)
#
# Each query asks all keys: how well do you fit me? The answer is a number, the dot product of the two. A softmax turns
# the numbers of one query into weights that sum to 1, and the result is the mean of the values with these weights:
# $\text{softmax}(\mathbf{Q}\mathbf{K}^T / \sqrt{d_k})\,\mathbf{V}$ (56). Without the root the dot products of long
# vectors are large, the softmax picks a single key, and nothing is left to learn from.
#
# That is two lines. `zoo.attention.attend` does the same for many heads at once:


# %%
def by_hand(query, key, value):
    """Equation 56 for one head, all `[time, features]`."""
    weights = jax.nn.softmax(query @ key.T / jnp.sqrt(key.shape[-1]))
    return weights @ value, weights


query, key, value = jax.random.normal(jax.random.key(0), (3, 6, 16))
output, weights = by_hand(query, key, value)

heads = [x[None, :, None] for x in (query, key, value)]  # [batch, time, heads, features]
np.testing.assert_allclose(zoo.attention.attend(*heads)[0, :, 0], output, atol=1e-4)
np.testing.assert_allclose(weights.sum(axis=-1), 1, atol=1e-5)
print("the weights of the first query:", np.round(weights[0], 2))

# %% [markdown]
# ## Where a token stands (section 8.1)
#
# Attention does not know the order of the tokens: shuffle the keys and values, and the result is the same. So a vector
# that tells the position is added to each token. It holds sines (59) and cosines (60) of many wavelengths, like the
# hands of many clocks. On the right is the dot product of the vectors of two positions. It depends on their distance
# alone, and it is largest where they are near: "look two places back" is easy to say.

# %%
positions = zoo.attention.sinusoids(64, 64)  # [position, feature]

figure, panels = plt.subplots(1, 2, figsize=(11, 3.6))
image = panels[0].imshow(positions, cmap="RdBu", aspect="auto")
panels[0].set(xlabel="feature", ylabel="position", title="the vector of each position")
figure.colorbar(image, ax=panels[0])
for position, color in ((10, "C0"), (32, "C1"), (50, "C4")):
    panels[1].plot(positions @ positions[position], color=color, label=f"with position {position}")
panels[1].set(xlabel="position", ylabel="dot product", title="how alike two positions are", ylim=(12, 41))
panels[1].legend(loc="upper center")
panels[0].grid(False)
plt.show()

near, far = positions[10] @ positions[12], positions[10] @ positions[40]
np.testing.assert_allclose(positions[30] @ positions[32], near, rtol=1e-3)  # the distance is what counts
assert near > far

# %% [markdown]
# ## A task: dates
#
# People write dates in many ways. The network reads one, character by character, and writes it in the form of ISO 8601.
# The test dates are of days that no training example has.

# %%
dates = data.load("dates", size=50_000 if LARGE else 20_000, validation=500)
vocabulary = dates.spec.vocabulary


def text_of(row):
    """The characters that tokens stand for."""
    return tokens.decode(row, vocabulary)


examples = dates.splits["test"][np.arange(200)]
for source, target in zip(examples["inputs"][:6], examples["targets"], strict=False):
    print(f"{text_of(source):36} → {text_of(target)}")

# %% [markdown]
# ## The Transformer
#
# The encoder reads the source. Each of its blocks is self-attention (61), added to its input (62), then a small dense
# network at each position (63), added again (64). The decoder writes the target, one character after the other. It has
# two attentions: one to what it has written so far, and one to the encoder's result. Several heads work side by side,
# each with its own projections (57–58), so that one may look for the month while another looks for the year.
#
# The task `seq2seq` gives the decoder the right characters so far and trains it to tell the next one.

# %%
model = zoo.create_model(
    "transformer_tiny",
    vocab_size=len(vocabulary),
    max_len=16,
    num_layers=1,
    num_heads=4,
    dropout_rate=0.0,
)
batch_size, steps = 128, 3000 if LARGE else 500
rate = schedule("cosine", 4e-3, steps, warmup_steps=50)
task = seq2seq(model, optax.adam(rate))
fitted = loop.fit(task, dates, batch_size=batch_size, steps=steps, evaluate_every=50)


def column(history, name):
    """One metric over the evaluations."""
    return [row[name] for row in history]


figure, axes = plt.subplots(figsize=(7, 3.2))
seen = [step * batch_size for step in column(fitted.history, "step")]
axes.plot(seen, column(fitted.history, "validation_accuracy"), color="C0", label="characters right")
axes.plot(seen, column(fitted.history, "validation_sequence_accuracy"), color="C1", label="whole dates right")
axes.set(xlabel="training examples seen", ylabel="share of validation", ylim=(0, 1.02))
axes.legend()
plt.show()

# %% [markdown]
# ## Reading new dates
#
# In use there are no right characters to lean on: each character that is written becomes input for the next one.
# `decode` does that in one compiled loop, and keeps keys and values, so that no character is computed twice.

# %% tags=["varies"]
variables = fitted.state.variables
found = decode(model, variables, jnp.asarray(examples["inputs"]), max_length=examples["targets"].shape[1])
read = [text_of(row) for row in found.tokens[:, 0]]
for source, answer, target in zip(examples["inputs"][:8], read, examples["targets"], strict=False):
    mark = "" if answer == text_of(target) else f"   wrong, it is {text_of(target)}"
    print(f"{text_of(source):36} → {answer}{mark}")

share = exact_match(model, variables, dates, "test")
print(f"{share:.1%} of {len(dates.splits['test'])} test dates are right")
assert share > 0.8

# %% [markdown]
# ## What it looks at
#
# Each attention can tell its weights: `apply` returns them when the collection `attention_weights` is mutable. A row of
# a picture is one character that is written, and shows where in the source the decoder looked for it. Nobody told it
# where the year stands. It found out, and it finds the month in a name as well as in a number.


# %%
def attention_of(index):
    """The attention of one example: from the decoder to the source, and within the decoder, `[heads, …, …]`."""
    source, target = examples["inputs"][index : index + 1], examples["targets"][index : index + 1]
    before = np.concatenate([[[tokens.START]], target[:, :-1]], axis=1)
    _, kept = model.apply(variables, source, before, mutable=["attention_weights"])
    block = kept["attention_weights"]["decoder_blocks_0"]
    return block["cross_attention"]["weights"][0], block["attention"]["weights"][0]


figure, panels = plt.subplots(1, 3, figsize=(14, 4.2))
for axes, index in zip(panels, (0, 2, 3), strict=True):
    to_source, within = attention_of(index)
    source, target = text_of(examples["inputs"][index]), text_of(examples["targets"][index])
    axes.imshow(to_source.mean(axis=0)[: len(target), : len(source)], cmap="Blues", aspect="auto")
    axes.set_xticks(range(len(source)), list(source), fontsize=9)
    axes.set_yticks(range(len(target)), list(target), fontsize=9)
    axes.set(xlabel="it reads", ylabel="it writes" if axes is panels[0] else "")
    axes.grid(False)
    np.testing.assert_allclose(to_source.sum(axis=-1), 1, atol=1e-4)
    np.testing.assert_allclose(np.triu(within[0], k=1), 0, atol=1e-6)  # it never looks at what is still to come
plt.show()

# %% [markdown]
# The mean over the heads hides that they share the work. Here are the four heads of the first date by themselves:

# %%
to_source, _ = attention_of(0)
source, target = text_of(examples["inputs"][0]), text_of(examples["targets"][0])
figure, panels = plt.subplots(1, 4, figsize=(14, 3.6), sharey=True)
for number, (axes, weights) in enumerate(zip(panels, to_source, strict=True), start=1):
    axes.imshow(weights[: len(target), : len(source)], cmap="Blues", aspect="auto", vmin=0, vmax=1)
    axes.set_xticks(range(len(source)), list(source), fontsize=9)
    axes.set_yticks(range(len(target)), list(target), fontsize=9)
    axes.set_title(f"head {number}")
    axes.grid(False)
plt.show()

# %% [markdown]
# ## A class for a text (section 8.1)
#
# The encoder alone classifies: the mean of what it makes of the tokens goes through a dense layer to the logits. Can it
# tell who of the ten most frequent speakers in Shakespeare's plays says a line? The lines are short, and there are few
# of them. A *bag of words* is hard to beat then: how often each word comes, weighed by logistic regression. With random
# weights our network stays far behind it (`zoo train text_classifier data=shakespeare_speakers`, 18.8 %).
#
# What helps is what other lines teach. The weights `pretrain_speakers` ship with the zoo. They have learned to tell 200
# speakers, from four times as many lines, none of them a test line. The recipe `speakers` starts from them and trains
# the last two layers.

# %%
try:
    lines = data.load("shakespeare_speakers")
except OSError:
    lines = None
    print("Shakespeare is not here: what follows needs him, and is left out")


def bag_of_words(split):
    """How often each word comes in each line, `[lines, words]`, and who says it."""
    examples = lines.splits[split][np.arange(len(lines.splits[split]))]
    counts = [np.bincount(row, minlength=len(lines.spec.vocabulary))[2:] for row in examples["tokens"]]
    return csr_matrix(np.array(counts)), examples["label"]


temporary = tempfile.TemporaryDirectory()
run = Path(temporary.name) / "speakers"
if lines:
    counts, label = bag_of_words("train")
    print(f"{len(label)} lines of {', '.join(lines.spec.classes)}")
    baseline = LogisticRegression(max_iter=1000).fit(counts, label).score(*bag_of_words("test"))
    report = train(get_recipe("speakers"), run, progress=False)  # as `zoo train speakers` does
    print(f"a bag of words tells {baseline:.1%} of the {len(lines.splits['test'])} test lines")
    print(f"the Transformer tells {report['test_accuracy']:.1%}")
    assert report["test_accuracy"] > baseline

# %% [markdown]
# Three in ten is not much, but nobody is told by a line like "Ay, my lord." Here are some lines of ours, and what the
# network says of them; `zoo predict RUN --text "…"` does the same.

# %%
if lines:
    ours = [
        "My lord, the king is dead.",
        "O sweet love, good night!",
        "The people and the senate of Rome hate him.",
        "He is condemned, and must die to-morrow.",
        "Sir, she will be my wife.",
        "Ay, my lord.",
    ]
    told = predict(run, texts=ours)
    figure, axes = plt.subplots(figsize=(9, 3))
    axes.imshow([list(each.probabilities.values()) for each in told], cmap="Blues", aspect="auto", vmin=0)
    axes.set_xticks(range(10), [name.replace(" ", "\n") for name in lines.spec.classes], fontsize=8)
    axes.set_yticks(range(len(ours)), ours, fontsize=9)
    axes.grid(False)
    plt.show()
temporary.cleanup()

# %% [markdown]
# ## Exercise
#
# Train with `num_heads=1`. How many dates are right after as many steps? Look at its picture: what does one head do
# where four shared the work? Then give `decode` the option `beams=4` and print the second-best answers.
#
# ## Where next
#
# `zoo train transformer_dates` trains two layers for longer, and `zoo translate` uses what came of it. A language model
# is a decoder alone: `zoo train char_gpt`. [Notebook 09](09_autoencoders_and_vae.ipynb) leaves sequences and compresses
# images.
