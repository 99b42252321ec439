"""Reports without figures, which take most of the time."""

from collections.abc import Iterator

import pytest

from mbls.report import build


@pytest.fixture(scope="module")
def no_report_figures() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build, "figures_of", lambda *_, **__: [])
        yield
