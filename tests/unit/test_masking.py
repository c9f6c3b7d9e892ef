"""Command lines are shown without secrets."""

from __future__ import annotations

import time

import pytest

from domain.masking import mask_args


@pytest.mark.parametrize(
    ("args", "shown"),
    [
        (["--token", "x", "y"], ["--token", "***", "y"]),
        (["--token=x"], ["--token=***"]),
        (["--password", "--verbose"], ["--password", "--verbose"]),
        (["-H", "Authorization: Bearer x"], ["-H", "Authorization: ***"]),
        (["postgres://me:x@host/db"], ["postgres://me:***@host/db"]),
        (["password=x"], ["password=***"]),
        (["needle", "--context", "3", "a=b"], ["needle", "--context", "3", "a=b"]),
    ],
)
def test_secrets_are_replaced(args: list[str], shown: list[str]) -> None:
    assert mask_args(args) == shown


@pytest.mark.parametrize("word", ["a", "://", "://a:", "token=", "password", "-----BEGIN ", ":@/"])
def test_a_long_word_is_masked_in_time(word: str) -> None:
    began = time.process_time()
    mask_args([word * (100_000 // len(word)) + "@"])
    assert time.process_time() - began < 2.0
