"""Fixtures that several folders of tests share."""

from __future__ import annotations

import pytest
from hypothesis import settings

from tests.tiny import Tiny, make


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """One small network in every format, made once per session."""
    return make(tmp_path_factory.mktemp("tiny"))


# A busy machine is no reason to fail: the time limit of the whole suite is the only one.
settings.register_profile("edgefit", deadline=None)
settings.load_profile("edgefit")
