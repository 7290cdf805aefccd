import pytest

pytest.register_assert_rewrite("tests.train.cli.command")
