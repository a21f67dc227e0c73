from Testing.host.fixtures import application, ignored_without_slicer, scene  # noqa: F401
from Testing.panel.fixtures import open_panel, user, user_of_real_models, views  # noqa: F401
from Testing.slicer.fixtures import (  # noqa: F401
    known,
    known_client,
    learning_client,
    learnt_models,
    models_home,
    own_client,
    real_client,
)
from Testing.training.conftest import dataset, trained  # noqa: F401

collect_ignore_glob = ignored_without_slicer()
