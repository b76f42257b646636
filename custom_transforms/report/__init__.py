"""Pictures of maps."""

from .figures import save_comparison_figure, save_maps_figure

__all__ = ["save_comparison_figure", "save_maps_figure"]
