"""Tests of each room, and what several of them need in `helpers`."""

import pytest

pytest.register_assert_rewrite("tests.helpers")
