"""`--html`: one file with what a run made: images before and after under a slider, masks, convergence, figures.

It needs no network: pictures, style and script are inside.
"""

from .page import Entry, Page, check_name
from .pictures import View, view

__all__ = ["Entry", "Page", "View", "check_name", "view"]
