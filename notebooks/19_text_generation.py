# %% [markdown]
# # Project: text generation
#
# The second project of the guide (section 14.2): a network that reads characters and tells which comes next,
# $P(x_{t+1} \mid x_1, \dots, x_t)$. Drawing from that, again and again, writes text. We train a small LSTM here, and
# take a Transformer that ships with the zoo, trained on the same plays of Shakespeare for some minutes.

# %%
try:
    import zoo
except ImportError:  # from PyPI, or from a wheel beside this notebook
    # %pip install -q --find-links . flaxzoo
    import zoo

# %%
import random

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

import data
from train import loop
from train.generate import TextRun, load, write
from train.tasks import language_modeling

LARGE = jax.default_backend() != "cpu"  # on an accelerator: the guide's two layers of 128, trained for longer
plt.style.use("train.measure.pictures")


def text(run, prompt, length, **options):
    """The prompt and what is written after it."""
    return prompt + "".join(piece[0] for piece in write(run, prompt, length, **options))


# %% [markdown]
# ## A Transformer that has read Shakespeare
#
# `load` takes a run folder or the name of a model that ships. It knows 65 characters and nothing else: not that there
# are words, or speakers.

# %%
gpt = load("char_gpt")
print(len(gpt.vocabulary), "characters")
print(zoo.model_card("char_gpt").paper)

# %% tags=["varies"]
print(text(gpt, "ROMEO:\n", 300, temperature=0.8, seed=1))

# %% [markdown]
# ## Temperature
#
# The network gives logits $z_i$, and the next character is drawn from $\text{softmax}(z / T)$ (7). A low $T$ makes the
# probable more probable, and the text repeats itself. A high one lets the improbable through, and words fall apart.
# Here is what the network expects after "To be, or not to ":

# %%
prompt = "To be, or not to "
tokens = jnp.array([[gpt.vocabulary.index(character) for character in prompt]])
logits = np.asarray(gpt.model.apply(gpt.variables, tokens))[0, -1]
figure, panels = plt.subplots(1, 3, figsize=(12, 2.8), sharey=True)
entropies = []
for axes, temperature in zip(panels, (0.3, 1.0, 2.0), strict=True):
    p = np.asarray(jax.nn.softmax(logits / temperature))
    most = np.argsort(-p)[:12]
    axes.bar([gpt.vocabulary[index].replace(" ", "␣").replace("\n", "¶") for index in most], p[most])
    entropies.append(-(p * np.log2(np.maximum(p, 1e-12))).sum())
    axes.set(title=f"T = {temperature}: {entropies[-1]:.1f} bits", xlabel="next character")
panels[0].set_ylabel("probability")
plt.show()
assert entropies == sorted(entropies)

# %% tags=["varies"]
for temperature in (0.3, 1.0, 2.0):
    print(f"T = {temperature}: {text(gpt, prompt, 80, temperature=temperature, seed=0)!r}")
print(f"nucleus (top_p = 0.9): {text(gpt, prompt, 80, top_p=0.9, seed=0)!r}")

# %% [markdown]
# ## Where it is surprised
#
# The same network judges text: a character costs $-\log_2 P$ bits. The beginning of a word is dear, its end is cheap.
# The mean over a text that it has not seen is its loss.

# %%
line = "What light through yonder window breaks?"
read = jnp.array([[gpt.vocabulary.index(character) for character in f"\n{line}"]])
log_p = jax.nn.log_softmax(gpt.model.apply(gpt.variables, read[:, :-1]))[0]
bits = -np.asarray(log_p[jnp.arange(len(line)), read[0, 1:]]) / np.log(2)
figure, axes = plt.subplots(figsize=(11, 2.6))
starts = [index == 0 or line[index - 1] == " " for index in range(len(line))]
axes.bar(range(len(line)), bits, color=["C1" if start else "C0" for start in starts])
axes.set_xticks(range(len(line)), line.replace(" ", "␣"))
axes.set_ylabel("bits")
plt.show()
print(f"first characters of words: {bits[starts].mean():.1f} bits, the others {bits[~np.array(starts)].mean():.1f}")
assert bits[starts].mean() > bits[~np.array(starts)].mean()

# %% [markdown]
# ## Training one
#
# An LSTM (section 6.2) on windows of characters: each character is told by those before it, so a window of 64 gives 64
# examples at once. If Tiny Shakespeare is not here, it learns to write Python from a file of Python's own.

# %%
try:
    plays = data.load("tiny_shakespeare", length=64)
except OSError:
    print("Shakespeare is not here: we take the source of a module")
    plays = data.load(f"text:{random.__file__}", length=64)

lstm = zoo.create_model("char_lstm", vocab_size=len(plays.spec.vocabulary), num_layers=2 if LARGE else 1)
task = language_modeling(lstm, optax.chain(optax.clip_by_global_norm(1.0), optax.adam(1e-2)))
steps = 2000 if LARGE else 300
fitted = loop.fit(task, plays, batch_size=32, steps=steps, evaluate_every=steps // 6, validation=None)
run = TextRun(lstm, fitted.state.variables, plays.spec.vocabulary)

uniform = np.log2(len(plays.spec.vocabulary))
figure, axes = plt.subplots(figsize=(7, 3))
axes.axhline(uniform, color="C6", label="all characters alike")
axes.plot([row["step"] for row in fitted.history], [row["bits_per_character"] for row in fitted.history], label="LSTM")
axes.set(xlabel="step", ylabel="bits a character, training")
axes.legend()
plt.show()
assert fitted.history[-1]["bits_per_character"] < 0.7 * uniform

# %% [markdown]
# After so few steps it has learned how long words and lines are, and which letters go together. `zoo train char_lstm`
# goes on for nine minutes, to 2.4 bits.

# %% tags=["varies"]
print(text(run, "\n", 250, temperature=0.7, seed=0))

# %% [markdown]
# ## Exercise
#
# The guide's generator draws with `temperature` alone. Let the GPT write 2000 characters with $T = 1$, and with
# `top_p=0.9`; count how many of the words are in its training text. Why does cutting the tail help more than cooling?
#
# ## Where next
#
# A text of your own: `zoo train char_gpt data=text:FILE`, then `zoo generate runs/char_gpt --prompt "Once"`. What
# such a model attends to: [attention](08_attention_and_transformers.ipynb). Language models of others:
# [the README](../README.md#as-a-library).
