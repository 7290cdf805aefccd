"""Reading a folder of pictures, here and in torch.utils.data, side by side in one process.

usage: python tests/parity/host_pipeline.py FOLDER [IMAGE_SIZE] [ENLARGE]

FOLDER is what `data.load("folder:…")` takes. Both decode the same files in the same order, resize the shorter side and
crop the centre, in as many threads or worker processes as there are cores, two batches ahead. ENLARGE first makes
copies that many times larger, as photographs are: pictures of 32×32 are little more than the opening of files.

Then: what a device waits for that needs longer for a step than the host for a batch. The step is a sleep, which like a
GPU leaves the host alone.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
import torch.utils.data
from PIL import Image

import data

BATCH = 64
ROUNDS = 5
WORKERS = os.cpu_count() or 1


class Theirs(torch.utils.data.Dataset):
    """The same files, as torchvision's transforms read them."""

    def __init__(self, files, labels, size):
        self.files, self.labels, self.size = files, labels, size

    def __len__(self):
        return len(self.files)

    def __getitem__(self, index):
        with Image.open(self.files[index]) as file:
            image = file.convert("RGB")
        scale = self.size / min(image.size)
        width, height = (max(self.size, int(side * scale)) for side in image.size)
        image = image.resize((width, height), Image.Resampling.BILINEAR)
        left, top = round((width - self.size) / 2), round((height - self.size) / 2)
        image = image.crop((left, top, left + self.size, top + self.size))
        return torch.from_numpy(np.array(image)), int(self.labels[index])


def enlarged(source, times: int, folder: Path):
    """Copies of the files of a source, larger."""
    files = []
    for index, file in enumerate(source.files):
        with Image.open(file) as image:
            larger = image.resize((times * image.width * 4 // 3, times * image.height), Image.Resampling.BICUBIC)
        files.append(folder / f"{index}.jpg")
        larger.save(files[-1], quality=90)
    return files


def main() -> None:
    """Prints images a second of both with 10 % and 90 % quantiles, the ratio, and how long a device waits."""
    path, size, times = sys.argv[1], int((sys.argv[2:] or ["32"])[0]), int((sys.argv[3:] or ["1"])[0])
    source = data.load(f"folder:{path}", image_size=size, in_memory=False).splits["train"]
    with tempfile.TemporaryDirectory() as temporary:
        if times > 1:
            source.files = enlarged(source, times, Path(temporary))
        count = min(len(source) // BATCH * BATCH, 1000 // times * 8 // BATCH * BATCH or BATCH)
        batches = np.arange(count, dtype=np.int32).reshape(-1, BATCH)
        loader = torch.utils.data.DataLoader(
            Theirs(source.files, source.labels, size),
            batch_sampler=[rows.tolist() for rows in batches],
            num_workers=WORKERS,
            prefetch_factor=2,
            persistent_workers=True,
        )

        def ours():
            return data.prefetch(source, iter(batches), lambda batch: batch)

        for (first, _), batch in zip(loader, ours(), strict=True):
            np.testing.assert_array_equal(first.numpy(), batch["image"])
        rates: dict[str, list[float]] = {"zoo": [], "torch": []}
        for _ in range(ROUNDS):
            for name, read in (("zoo", ours), ("torch", lambda: loader)):
                began = time.perf_counter()
                for _ in read():
                    pass
                rates[name].append(count / (time.perf_counter() - began))
        print(f"{count} pictures, {size}×{size} out of files such as {source.files[0]}, {WORKERS} workers")
        for name, values in rates.items():
            low, median, high = np.quantile(values, [0.1, 0.5, 0.9])
            print(f"{name:6} {median:8.0f} images/s (10 %: {low:.0f}, 90 %: {high:.0f})")
        print(f"ratio  {np.median(np.divide(rates['zoo'], rates['torch'])):8.2f}")
        step = 1.3 * BATCH / np.median(rates["zoo"])
        waits, stream = [], ours()
        while True:
            began = time.perf_counter()
            if next(stream, None) is None:
                break
            waits.append(time.perf_counter() - began)
            time.sleep(step)
        steady = np.array(waits[1:]) * 1e3
        print(
            f"a step of {step * 1e3:.0f} ms waits {steady.mean():.2f} ms for its batch, at most {steady.max():.2f} ms"
        )


if __name__ == "__main__":
    main()
