from Testing.host.fixtures import application, ignored_without_slicer, scene  # noqa: F401
from Testing.panel.fixtures import panel, person  # noqa: F401
from Testing.slicer.fixtures import known, logic, models_home  # noqa: F401

collect_ignore_glob = ignored_without_slicer()
