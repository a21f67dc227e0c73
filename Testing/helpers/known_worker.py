"""Worker process with models whose results are known; run as a script.

The name of a model's folder chooses its behaviour, see `known_models.known_segmenter`.
"""

from __future__ import annotations

import argparse
import json
import sys
from functools import partial
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from MaskSAMCore.worker import server


def load(model: str, device: str):
    """Load a known segmenter; PyTorch is imported here, as in the real worker."""
    from Testing.helpers.known_models import known_segmenter

    return known_segmenter(Path(model).name)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--largest-file", type=int, help="limit of a file's size in bytes")
    parser.add_argument("--catalog-entry", type=json.loads, help="entry that any name stands for")
    parser.add_argument("--learning-steps", type=int, help="learn for real, but so many steps")
    parser.add_argument("--preload", action="store_true", help="import PyTorch before all else")
    options, others = parser.parse_known_args()
    if options.preload:
        import Testing.helpers.known_models  # noqa: F401
    if options.largest_file is not None:
        import resource

        resource.setrlimit(resource.RLIMIT_FSIZE, (options.largest_file,) * 2)
    if options.catalog_entry is not None:
        from MaskSAMCore import models

        models.find = lambda _name: models.Entry(**options.catalog_entry)
    if options.learning_steps is None:
        from Testing.helpers import known_learning

        sys.modules["MaskSAMCore.training.adapt"] = known_learning
    else:
        from MaskSAMCore.training import adapt

        adapt.AdaptOptions = partial(adapt.AdaptOptions, steps=options.learning_steps)
    sys.argv[1:] = others
    server.main(load)


if __name__ == "__main__":
    main()
