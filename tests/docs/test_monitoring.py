"""docs/monitoring.md names every finding that the code can make."""

from __future__ import annotations

import re
from pathlib import Path

CODE = Path(__file__).parents[2]
PAGE = CODE / "docs" / "monitoring.md"


def test_every_kind_is_on_the_page() -> None:
    sources = [CODE / "policies" / "protection.py", CODE / "policies" / "alive.py", CODE / "drkit/daemon/status.py"]
    sources += [CODE / "drkit/daemon/watch.py", CODE / "drkit/daemon/duties.py"]
    text = "".join(path.read_text() for path in sources)
    kinds = set(re.findall(r'"((?:[a-z]+)\.(?:[a-z]+))"', text)) - {"utf.8"}
    told = PAGE.read_text()
    families = {"objective": "`objective.*`", "copies": "`copies.*`"}
    missing = {kind for kind in kinds if families.get(kind.split(".")[0], f"`{kind}`") not in told}
    assert len(kinds) > 15
    assert missing == set()
