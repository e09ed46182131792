"""Tests of the counter of lost messages, for any number of publishers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlfp_ros.recording.losses import LossCounter


def counter(publishers: int = 1) -> LossCounter:
    made = LossCounter()
    made.publishers(publishers, 0.0)
    return made


def test_a_gap_is_a_loss() -> None:
    losses = counter()
    for sequence in (5, 6, 9, 10):
        losses.message(sequence, 5.0)
    assert losses.lost == 2


def test_a_late_message_is_not_lost() -> None:
    losses = counter()
    for sequence in (1, 3, 2, 4):
        losses.message(sequence, 5.0)
    assert losses.lost == 0


def test_a_publisher_that_starts_again_counts_from_one() -> None:
    losses = counter()
    for sequence in (500, 501, 1, 2, 3, 5):
        losses.message(sequence, 5.0)
    assert losses.lost == 1


def test_messages_before_the_first_received_one_count_as_lost_if_all_were_expected() -> None:
    losses = counter()
    losses.expect_first()
    for sequence in (47, 48, 50):
        losses.message(sequence, 5.0)
    assert losses.lost == 46 + 1


def test_a_publisher_that_was_heard_before_all_was_expected_lost_nothing() -> None:
    losses = counter()
    losses.message(47, 5.0)
    losses.expect_first()
    losses.message(48, 5.1)
    losses.publishers(2, 6.0)
    losses.message(700, 6.1)
    assert losses.lost == 0


@pytest.mark.parametrize("first", [1, 7, 9000])
def test_a_publisher_that_joins_neither_counts_as_a_loss_nor_hides_one(first: int) -> None:
    losses = counter()
    for sequence in (500, 501):
        losses.message(sequence, 5.0)
    losses.publishers(2, 10.0)
    for step in range(20):
        losses.message(first + step, 10.1 + step)
        if step not in (3, 4):
            losses.message(502 + step, 10.1 + step)
    assert losses.lost == 2


def test_messages_that_arrive_before_their_publisher_is_known_are_not_counted_as_lost() -> None:
    losses = counter()
    for sequence in (500, 501, 1, 502, 2, 503, 3, 504):
        losses.message(sequence, 5.0)
    losses.publishers(2, 6.0)
    for sequence in (4, 505, 5, 506, 508):
        losses.message(sequence, 20.0)
    assert losses.lost == 1


def test_a_publisher_that_joins_and_sends_nothing_hides_no_loss() -> None:
    losses = counter()
    losses.message(500, 5.0)
    losses.publishers(2, 10.0)
    losses.message(501, 10.1)
    losses.message(510, 20.0)
    assert losses.lost == 8


@given(st.integers(1, 4), st.integers(0, 2**32 - 1), st.floats(0, 0.3), st.sampled_from([0, 100_000]))
def test_the_sum_over_publishers_is_right(publishers: int, seed: int, share: float, apart: int) -> None:
    generator = np.random.default_rng(seed)
    losses = counter(publishers)
    numbers = generator.integers(1, 50, publishers) + apart * np.arange(publishers)
    for number in numbers:  # each is heard once before anything is lost, and once at the end
        losses.message(int(number), 0.1)
    lost = 0
    for _ in range(400):
        publisher = int(generator.integers(publishers))
        numbers[publisher] += 1
        if generator.random() < share:
            lost += 1
        else:
            losses.message(int(numbers[publisher]), 10.0)
    for publisher in range(publishers):
        losses.message(int(numbers[publisher]) + 1, 10.0)
    if apart or publishers == 1:
        assert losses.lost == lost
    else:  # publishers that count in the same range can hide a few losses of each other
        assert 0.8 * lost - 2 <= losses.lost <= lost
