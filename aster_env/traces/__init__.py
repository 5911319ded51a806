"""What can be read off episodes once they are played."""

from __future__ import annotations

from aster_env.traces.collapse import Collapse, CollapseWatch, Measured, read_run, watch_run

__all__ = ["Collapse", "CollapseWatch", "Measured", "read_run", "watch_run"]
