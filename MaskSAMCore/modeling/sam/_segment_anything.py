"""The ``segment-anything`` package, imported from here without its own ``__init__``.

That one imports torchvision, which many machines lack or have broken; what is under ``modeling``
and ``build_sam`` does not need it. With this ``__path__`` the same files are importable as
submodules of this module, also by processes that unpickle a network, and ``segment_anything`` in
``sys.modules`` is left alone.
"""

from __future__ import annotations

import importlib.util

_spec = importlib.util.find_spec("segment_anything")
if _spec is None or not _spec.submodule_search_locations:
    raise ImportError("segment-anything is not installed: pip install segment-anything")

__path__ = list(_spec.submodule_search_locations)
