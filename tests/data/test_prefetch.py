import threading
import time

import numpy as np
import pytest

from data import ArraySource, prefetch

SOURCE = ArraySource({"x": np.arange(100)})


def indices(count):
    return [np.array([i, i + 1]) for i in range(count)]


@pytest.mark.parametrize(("num_threads", "buffer"), [(1, 0), (1, 2), (4, 2), (2, 50)])
def test_keeps_order(num_threads, buffer):
    def slow_when_even(batch):
        time.sleep(0.002 * (batch["x"][0] % 2 == 0))
        return {"x": batch["x"] * 10}

    batches = list(prefetch(SOURCE, iter(indices(20)), slow_when_even, num_threads, buffer))
    assert [batch["x"].tolist() for batch in batches] == [[10 * i, 10 * i + 10] for i in range(20)]


def test_reads_ahead_in_the_background_but_no_further_than_asked():
    seen = []

    def count(batches):
        for batch in batches:
            seen.append(batch)
            yield batch

    threads = set()

    def preprocess(batch):
        threads.add(threading.current_thread())
        return batch

    stream = prefetch(SOURCE, count(indices(20)), preprocess, buffer=3)
    next(stream)
    assert len(seen) == 4
    next(stream)
    assert len(seen) == 5
    assert threading.current_thread() not in threads
    stream.close()


@pytest.mark.parametrize("where", ["source", "preprocess", "batches"])
def test_errors_arrive_at_their_turn(where):
    def batches():
        yield from indices(2)
        if where == "batches":
            raise RuntimeError("broken batches")
        yield np.array([1000 if where == "source" else 2])

    def preprocess(batch):
        if where == "preprocess" and len(batch["x"]) == 1:
            raise RuntimeError("broken preprocess")
        return batch

    stream = prefetch(SOURCE, batches(), preprocess, buffer=0)
    assert [next(stream)["x"][0], next(stream)["x"][0]] == [0, 1]
    with pytest.raises((RuntimeError, IndexError), match=f"broken {where}|out of bounds"):
        next(stream)


def test_leaves_out_what_waits_when_the_consumer_stops():
    done = []

    def slow(batch):
        time.sleep(0.01)
        done.append(batch)
        return batch

    stream = prefetch(SOURCE, indices(50), slow, num_threads=1, buffer=40)
    next(stream)
    stream.close()
    assert len(done) < 10


def test_stops_its_threads_when_the_consumer_stops():
    def alive():
        return [thread for thread in threading.enumerate() if thread.name.startswith("prefetch")]

    for _ in prefetch(SOURCE, indices(50), lambda batch: batch, num_threads=3, buffer=10):
        assert alive()
        break
    assert not alive()
    list(prefetch(SOURCE, indices(5), lambda batch: batch))
    assert not alive()
