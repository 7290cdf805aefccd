"""Where a study is kept: a journal in a file, which a killed process cannot damage, or a database."""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from optuna.exceptions import ExperimentalWarning
from optuna.storages import BaseStorage, InMemoryStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

from train.files import fcntl

JOURNAL = "study.journal"
"""The file of a study, in its folder."""

HEARTBEAT, GRACE = 20, 90
"""Seconds between two signs of life of a trial in a database, and until one without them counts as dead."""


def open_storage(folder: Path | None, url: str | None) -> BaseStorage:
    """The storage of a study: the database of a URL, else the journal in a folder, else memory.

    Raises:
      ValueError: the URL is wrong, there is no driver for it, or nothing answers there; or the journal is damaged.
    """
    if url is not None:
        return _database(url)
    if folder is None:
        return InMemoryStorage()
    path = folder / JOURNAL
    lock: Any = JournalFileOpenLock(str(path)) if fcntl is None else _Lock(path)
    try:
        return JournalStorage(JournalFileBackend(str(path), lock_obj=lock))
    except (ValueError, KeyError, AssertionError) as error:
        raise ValueError(f"{path} is damaged, or no journal of Optuna: {error}") from None


def _database(url: str) -> RDBStorage:
    import sqlalchemy
    from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError

    try:
        shown = sqlalchemy.engine.make_url(url).render_as_string(hide_password=True)
    except ArgumentError:
        raise ValueError(
            f"--storage takes the URL of a database, such as postgresql+psycopg://user@host/name; not {url!r}"
        ) from None
    waits = {"connect_args": {"timeout": 100}} if url.startswith("sqlite") else {"pool_pre_ping": True}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)  # signs of life; the tests watch over them
            return RDBStorage(url, engine_kwargs=waits, heartbeat_interval=HEARTBEAT, grace_period=GRACE)
    except (ImportError, NoSuchModuleError) as error:
        raise ValueError(
            f"there is no driver for {shown}: {error}; for PostgreSQL, pip install psycopg[binary]"
        ) from None
    except (SQLAlchemyError, RuntimeError) as error:
        cause = str(getattr(error, "orig", None) or error).strip().splitlines()[0]
        raise ValueError(f"the database {shown} cannot be used: {cause}") from None


class _Lock:
    """The lock of a journal; the kernel takes it from a process that dies.

    Optuna's own locks are files, on which all others wait half a minute after their owner was killed. Whoever gets
    this one first takes away the half line that an owner left who was killed while writing.
    """

    def __init__(self, path: Path):
        self._path = path
        self._file: IO[bytes] | None = None

    def acquire(self) -> bool:
        self._file = self._path.with_suffix(".lock").open("wb")
        fcntl.flock(self._file, fcntl.LOCK_EX)  # type: ignore[union-attr]
        with self._path.open("rb+") as journal:
            if journal.seek(0, os.SEEK_END):
                journal.seek(-1, os.SEEK_END)
                if journal.read(1) != b"\n":
                    journal.seek(0)
                    journal.truncate(journal.read().rfind(b"\n") + 1)
        return True

    def release(self) -> None:
        assert self._file is not None
        self._file.close()
        self._file = None


@contextlib.contextmanager
def alone(path: Path | None) -> Iterator[None]:
    """Waits until no other process is inside with the same file; None for one process alone."""
    if path is None or fcntl is None:
        yield
        return
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def is_held(path: Path) -> bool:
    """Whether a process is alive that holds this file, as `holding` does."""
    if fcntl is None:
        return False
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return True
    return False


@contextlib.contextmanager
def holding(path: Path | None) -> Iterator[None]:
    """Holds a file, so that others see that this process is alive; it is gone afterwards."""
    if path is None:
        yield
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        if fcntl is not None:
            fcntl.flock(file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            path.unlink(missing_ok=True)
