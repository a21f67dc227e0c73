"""Settings of a preset that are changed by name."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from MaskSAMCore.errors import MaskSAMError
from MaskSAMCore.presets.paper import ACDC
from MaskSAMCore.presets.small import TINY
from MaskSAMCore.training.overrides import change_preset


def test_settings_of_network_training_plan_and_loss_are_changed_by_name() -> None:
    changed = change_preset(
        ACDC,
        [
            "queries=12",
            "window=4,128,128",
            "batch = 6",
            "loss.semantic=0",
            "share=0.5",
            "spacing=[10, 1.5, 1.5]",
            "mask_prompt=binary",
            "dense_decoder_position=True",
            "ct_window=none",
        ],
    )
    assert changed.network.queries == 12 and changed.network.window == (4, 128, 128)
    assert changed.network.mask_prompt == "binary" and changed.network.dense_decoder_position
    assert changed.training.batch == 6 and changed.training.loss.semantic == 0
    assert changed.training.loss.prompts.share == 0.5
    assert changed.plan.spacing == (10, 1.5, 1.5) and changed.plan.ct_window is None
    assert changed.changes["loss.prompts.share"] == 0.5
    assert json.loads(json.dumps(changed.changes)) == changed.changes
    # Everything else is the preset's.
    back = change_preset(changed, [f"queries={ACDC.network.queries}", "window=4,256,256"]).network
    assert back.replace(mask_prompt="logits", dense_decoder_position=False) == ACDC.network


def test_one_number_in_place_of_several_is_a_list_of_one() -> None:
    changed = change_preset(TINY, ["mirror=2"])
    assert changed.training.mirror == (2,) and changed.changes["mirror"] == [2]
    assert change_preset(TINY, ["mirror=0,2"]).training.mirror == (0, 2)


def test_a_preset_without_changes_is_the_preset() -> None:
    assert change_preset(TINY, []) is TINY


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("queries", "--set needs key=value, such as loss.semantic=0, not 'queries'"),
        ("=3", "--set needs key=value"),
        ("querys=3", "preset 'acdc' has no setting 'querys': did you mean queries"),
        ("semantik=0", "did you mean loss.semantic"),
        ("los.semantic=0", "did you mean loss.semantic"),
        ("num_classes=4", "--set num_classes: the dataset decides it"),
        ("queries=many", "--set queries=many cannot be used: .* field 'queries' cannot be 'many'"),
        ("queries=0", "queries must be at least 1"),
        ("window=4,250,250", "is not a whole number of 16-pixel tokens"),
        ("batch=0", "batch must be at least 1"),
        ("ema=1.5", "ema must be between 0 and 1"),
        ("generator_first=1", "generator_first must be less than 1"),
        ("validation_share=0", "validation_share must be more than 0 and at most 1"),
        ("validation_minutes=-1", "validation_minutes must not be negative"),
        ("loss.prompts.repeats=0", "prompts.repeats must be at least 1"),
        ("loss.prompts.share=2", "prompts.share must be between 0 and 1"),
        ("generator_channels=0,0,0", "generator_channels must be widths of at least 1"),
        ("head_channels=-1", "head_channels must be at least 1"),
        ("spacing=0,1,1", "the spacing must be between 0 and 1000 mm"),
        ("spacing=-1,1,1", "the spacing must be between 0 and 1000 mm"),
        ("ct_window=250,-200", "ct_window must be a lowest and a higher intensity"),
        ("orientation=RRA", "orientation 'RRA' must name one of"),
        ("mirror=3,", "field 'mirror' cannot be '3,'"),
        ("mirror=[3]", "mirror must name axes of a window"),
        ("loss=3", "has no setting 'loss'"),
        ("learning_rate=nan", "cannot be 'nan'"),
        ("optimizer=adam", "cannot be 'adam'"),
        ("network=unet", "has no setting 'network'"),
    ],
)
def test_a_wrong_setting_is_refused_in_one_line(text: str, message: str) -> None:
    with pytest.raises(MaskSAMError, match=message) as error:
        change_preset(ACDC, [text])
    assert "\n" not in str(error.value)


@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from(
        ["queries", "window", "batch", "loss.semantic", "share", "spacing", "sam.depth"]
    ),
    st.text(max_size=12) | st.integers().map(str) | st.floats().map(str),
)
def test_any_value_is_used_or_refused_in_one_line(key: str, value: str) -> None:
    try:
        found = [str(name) for name in change_preset(TINY, [f"{key}={value}"]).changes]
    except MaskSAMError as error:
        found = str(error).splitlines()
    assert len(found) == 1
