"""Folders with models of `transformers`: only the right kind is accepted."""

import pytest

from library.errors import ModelError
from library.models.loading.pretrained import check_model_type


@pytest.mark.parametrize(
    ("config", "said"),
    [('{"model_type": "clip"}', None), ('{"model_type": "vit"}', '"vit" instead of "clip"'), ("[]", "can't be read")],
)
def test_a_folder_of_another_kind_of_model_is_refused(tmp_path, config, said):
    (tmp_path / "config.json").write_text(config)
    if said is None:
        check_model_type(tmp_path, ["clip", "siglip"])
        return
    with pytest.raises(ModelError, match=said):
        check_model_type(tmp_path, ["clip", "siglip"])
