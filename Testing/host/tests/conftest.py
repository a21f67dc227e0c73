from Testing.host.fixtures import application, ignored_without_slicer, scene  # noqa: F401
from Testing.host.tests.small_module import panel, small_path, volume  # noqa: F401

collect_ignore_glob = ignored_without_slicer()
