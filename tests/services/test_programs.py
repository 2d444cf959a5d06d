from collections.abc import Callable
from typing import Any

import pytest

from effir.services import programs
from effir.services.store import Store


@pytest.mark.parametrize("before", [{}, None], ids=["began before", "began so"])
def test_an_s3_folder_keeps_what_it_holds(
    before: dict[str, str] | None,
    new_place: Callable[[], Any],
    serving_s3: Callable[..., Any],
    eventually: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """However its table of names was kept when it began, a server that is started anew finds it. {}: as SeaweedFS does unless told."""
    place, kept = new_place(), "s3://effir/kept.json"
    for time in range(3):
        own = before if time == 0 else None
        with serving_s3(place, programs.variables(place)["s3"] if own is None else own) as reached:
            for name, value in reached.items():
                monkeypatch.setenv(name, value)
            if time == 0:
                eventually(lambda: Store().put_json(kept, {"kept": 1}))
            assert eventually(lambda: Store().get_json(kept), seconds=20) == {"kept": 1}
