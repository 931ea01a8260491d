"""Fixtures that several folders of tests share."""

from __future__ import annotations

import os

import pytest
from hypothesis import settings

from tests.tiny import Tiny, make


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """One small network in every format, made once per session."""
    return make(tmp_path_factory.mktemp("tiny"))


# A busy machine is no reason to fail: the time limit of the whole suite is the only one. The examples are the same every
# time, so that the suite is too; HYPOTHESIS_PROFILE=explore draws others.
settings.register_profile("edgefit", deadline=None, derandomize=True)
settings.register_profile("explore", deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "edgefit"))
