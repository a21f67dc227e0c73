"""The ``segment-anything`` package under another name, without its own ``__init__``.

Submodules of this module are the package's files, also in processes that unpickle a network, and
``segment_anything`` in ``sys.modules`` is not touched. See ``package.py``.
"""

from __future__ import annotations

import importlib.util

_spec = importlib.util.find_spec("segment_anything")
if _spec is None or not _spec.submodule_search_locations:
    raise ImportError("segment-anything is not installed: pip install segment-anything")

__path__ = list(_spec.submodule_search_locations)
