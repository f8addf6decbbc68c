"""What a bundle must be like to be given away."""

from __future__ import annotations

from pathlib import Path

#: By MONAI's bundle specification and the model zoo's habit; the zoo's own file is a download.
SCHEMA = Path(__file__).parent / "metadata_schema.json"
