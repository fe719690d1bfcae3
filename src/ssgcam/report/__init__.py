"""Pictures out: heat maps over photos, panels with captions."""

from ssgcam.report.heatmap import heat_map, legend, noted, overlay
from ssgcam.report.panel import Cell, panel

__all__ = ["Cell", "heat_map", "legend", "noted", "overlay", "panel"]
