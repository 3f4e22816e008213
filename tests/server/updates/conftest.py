"""A registry for the tests of this folder."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.engine.daemon import UnavailableError
from tests.support.engine.engines import RealEngine
from tests.support.engine.tag_registry import TagRegistry, tag_registry


@pytest.fixture(scope="module")
def shared_registry(engine: RealEngine) -> Iterator[TagRegistry]:
    if not engine.private:
        pytest.skip("needs a private engine for the registry")
    try:
        with tag_registry(engine) as running:
            yield running
    except UnavailableError as error:
        pytest.skip(str(error))


@pytest.fixture
def registry(shared_registry: TagRegistry) -> Iterator[TagRegistry]:
    shared_registry.requests.clear()
    yield shared_registry
    shared_registry.fault = lambda method, path, headers: None
