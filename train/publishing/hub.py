"""A run on the hub of Hugging Face."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

from train.publishing.folder import publish


def push(run: str | Path, repository: str, *, licence: str | None = None, private: bool = False) -> str:
    """Puts the best checkpoint of a run on the hub, with its card; `zoo.load_model` and all commands take its name.

    The repository is made where it is not there. Who may write is decided by the token of `hf auth login`, or that in
    the environment, `HF_TOKEN`.

    Args:
      run: see `train.publishing.folder.publish`.
      repository: `USER/NAME`.
      licence: of the weights, see `publish`.
      private: whether others see it; what is there already stays as it is.

    Returns:
      Where it is to be seen.

    Raises:
      ImportError: huggingface_hub is not installed.
      OSError: the hub does not take it.
      ValueError: the name is no `USER/NAME`, or there is no such run.
    """
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repository):
        raise ValueError(f"a repository on the hub is named USER/NAME, not {repository!r}")
    try:
        from huggingface_hub import HfApi
    except ImportError:
        raise ImportError('pushing to the hub needs huggingface_hub: pip install "flaxzoo[hub]"') from None
    with tempfile.TemporaryDirectory() as made:
        publish(run, made, repository, licence=licence)
        try:
            api = HfApi()
            api.create_repo(repository, private=private, exist_ok=True)
            api.upload_folder(repo_id=repository, folder_path=made, commit_message="Weights and card of flaxzoo")
        except Exception as error:  # of the network, of the hub, of its rules
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise OSError(f"the hub did not take {repository}: {reason}; `hf auth login` says who you are") from error
    return f"{api.endpoint}/{repository}"
