"""Commands that make images and texts: sample, generate, translate."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import Positional, arg

from train.cli import console
from train.cli.arguments import Json, RunFolder, picture_file


def sample(
    run: RunFolder,
    n: Annotated[
        int, arg(help="number of images, or of points of a flow; for the two other kinds a square number")
    ] = 64,
    out: Annotated[Path, arg(help="the picture to write, a PNG")] = Path("samples.png"),
    seed: Annotated[int, arg(help="the same seed draws the same images")] = 0,
    kind: Annotated[
        Literal["samples", "interpolation", "manifold"],
        arg(help="samples; ways between two samples, one a row; the plane of a VAE's latent space that varies most"),
    ] = "samples",
    json: Json = False,
) -> None:
    """Draw images from the best checkpoint of a VAE, a GAN or a diffusion model, or points from a flow.

    The picture of a flow shows its density at several times, the drawn points, and points of the data.
    """
    from train.inference import image_sampling
    from train.inference.loading import load
    from train.measure import pictures

    side, out = math.isqrt(max(n, 0)), picture_file(out)
    if kind != "samples" and side**2 != n:
        raise ValueError(f"--kind {kind} fills a square: n is a square number such as 64 or 225, not {n}")
    loaded = load(run)
    if loaded.recipe.task == "density":
        return _sample_points(loaded, run, n, out, seed, kind, json)
    if kind == "samples":
        images = image_sampling.sample(run, n, seed)
    elif kind == "interpolation":
        images = image_sampling.interpolate(run, side, side, seed)
    else:
        images = image_sampling.manifold(run, side)
    out.parent.mkdir(parents=True, exist_ok=True)
    pictures.grid(images, out)
    if json:
        return console.print_json({"file": str(out), "images": n, "kind": kind, "seed": seed})
    print(f"{n} images in {out}")


def _sample_points(loaded: Any, run: Path, n: int, out: Path, seed: int, kind: str, json: bool) -> None:
    from train.inference.flow_sampling import draw_points
    from train.measure import flow_pictures

    if kind != "samples":
        raise ValueError(f"--kind {kind} is of images; from a flow points are drawn, with --kind samples")
    points = draw_points(loaded, n, seed)[-1]
    out.parent.mkdir(parents=True, exist_ok=True)
    flow_pictures.density_flow(loaded, points, out, title=run.resolve().name)
    if json:
        return console.print_json({"file": str(out), "points": points.tolist(), "seed": seed})
    print(f"{n} points in {out}")


def generate(
    run: RunFolder,
    prompt: Annotated[str, arg(help="the text to go on from; by default the beginning of a line")] = "",
    length: Annotated[int, arg(help="characters to write")] = 500,
    temperature: Annotated[float, arg(help="below 1 the probable becomes more probable, above 1 less")] = 1.0,
    top_k: Annotated[int | None, arg(help="draw from so many most probable characters")] = None,
    top_p: Annotated[
        float | None, arg(help="draw from the fewest most probable characters that have this probability together")
    ] = None,
    greedy: Annotated[bool, arg(help="take the most probable character, and draw nothing")] = False,
    stop: Annotated[str, arg(help="characters, each of which ends the text")] = "",
    n: Annotated[int, arg(help="number of texts")] = 1,
    seed: Annotated[int, arg(help="the same seed writes the same texts")] = 0,
    json: Json = False,
) -> None:
    """Write text with the best checkpoint of a language model."""
    from train.inference import text_generation

    pieces = text_generation.write(
        text_generation.load(run),
        prompt,
        length,
        n=n,
        stop=stop,
        seed=seed,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        greedy=greedy,
    )
    if json or n > 1:
        texts = [prompt + "".join(parts) for parts in zip(*pieces, strict=True)]
        return console.print_json({"texts": texts, "seed": seed}) if json else print(f"\n{'—' * 40}\n".join(texts))
    print(prompt, end="")
    for (piece,) in pieces:
        print(piece, end="", flush=True)
    print()


def translate(
    run: RunFolder,
    texts: Annotated[Positional[tuple[str, ...]], arg(metavar="TEXT", help="what to translate")],
    beams: Annotated[int, arg(help="targets that are followed at a time; 1 is greedy decoding")] = 1,
    json: Json = False,
) -> None:
    """Translate texts with the best checkpoint of a run of the task seq2seq."""
    from train.inference.translation import translate as translate_texts

    if not texts:
        raise ValueError('no text given: zoo translate RUN "TEXT"…')
    translations = translate_texts(run, texts, beams=beams)
    if json:
        return console.print_json([translation._asdict() for translation in translations])
    for translation in translations:
        print(f"{translation.text} ({translation.probability:.1%})")
