import pickle

import pytest
import timm
import torch
from safetensors.torch import save_file

from retinanet.errors import ModelError, UsageError
from retinanet.model import backbone_weights
from retinanet.model.backbone import Backbone, describe_backbone
from retinanet.model.backbone_weights import load_backbone_weights


def make(name: str) -> Backbone:
    return Backbone(describe_backbone(name, "frozen"))


# Each of timm's feature extractors names its weights in another way: unchanged, flattened, wrapped.
@pytest.mark.parametrize("name", ["tf_efficientnet_lite0", "test_convnext", "test_resnet", "hieradet_small"])
@pytest.mark.parametrize("ending", ["pth", "safetensors"])
@torch.no_grad()
def test_a_whole_models_weights_fill_the_backbone(tmp_path, name, ending):
    torch.manual_seed(1)
    whole = timm.create_model(name).eval()
    for parameter in whole.parameters():
        parameter.add_(0.01)
    path = tmp_path / f"weights.{ending}"
    if ending == "pth":
        torch.save(whole.state_dict(), path)
    else:
        save_file(whole.state_dict(), path)
    backbone = make(name).eval()

    load_backbone_weights(backbone, str(path))

    x = torch.rand(1, 3, 64, 64)
    expected = whole.forward_intermediates(x, intermediates_only=True)[-1]
    torch.testing.assert_close(backbone.body(x)[-1], expected)


def test_a_features_own_state_dict_fills_it_too(tmp_path):
    source, backbone = make("test_convnext"), make("test_convnext")
    torch.save({"state_dict": source.body.state_dict()}, tmp_path / "features.pth")
    load_backbone_weights(backbone, str(tmp_path / "features.pth"))
    for ours, theirs in zip(backbone.body.parameters(), source.body.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_weights_of_another_backbone_name_what_is_missing(tmp_path):
    state = timm.create_model("test_resnet").state_dict()
    del state["layer3.0.conv1.weight"]
    torch.save(state, tmp_path / "part.pth")
    with pytest.raises(ModelError, match=r"lacks 1 of .*layer3\.0\.conv1\.weight"):
        load_backbone_weights(make("test_resnet"), str(tmp_path / "part.pth"))

    state["layer3.0.conv1.weight"] = torch.zeros(2, 2)
    torch.save(state, tmp_path / "wide.pth")
    with pytest.raises(ModelError, match="shapes"):
        load_backbone_weights(make("test_resnet"), str(tmp_path / "wide.pth"))


def test_a_file_that_is_missing_or_unreadable(tmp_path):
    backbone = make("test_resnet")
    with pytest.raises(UsageError, match="no file"):
        load_backbone_weights(backbone, str(tmp_path / "none.pth"))
    (tmp_path / "code.pth").write_bytes(pickle.dumps({"key": print}, protocol=2))
    (tmp_path / "text.safetensors").write_text("not weights")
    for name in ("code.pth", "text.safetensors"):
        with pytest.raises(ModelError, match=name):
            load_backbone_weights(backbone, str(tmp_path / name))


def test_none_leaves_the_backbone_as_it_is():
    backbone = make("test_resnet")
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    load_backbone_weights(backbone, "none")
    assert all(torch.equal(value, before[key]) for key, value in backbone.state_dict().items())


def test_pretrained_weights_that_cannot_be_had_name_the_choices(monkeypatch, capsys):
    def unreachable(url: str) -> None:
        raise OSError("Name or service not known")

    monkeypatch.setattr(backbone_weights, "get_hf_file_metadata", unreachable)
    monkeypatch.setattr(backbone_weights, "try_to_load_from_cache", lambda repository, file: None)
    with pytest.raises(UsageError, match=r"--weights FILE, or --weights none") as raised:
        load_backbone_weights(make("test_resnet"), "pretrained")
    assert raised.value.exit_code == 2
    assert "test_resnet" in capsys.readouterr().err


def test_cached_pretrained_weights_need_no_network(monkeypatch, tmp_path):
    torch.manual_seed(2)
    whole = timm.create_model("test_resnet")
    save_file(whole.state_dict(), tmp_path / "model.safetensors")
    cache = {"timm/test_resnet.r160_in1k": str(tmp_path / "model.safetensors")}
    monkeypatch.setattr(backbone_weights, "try_to_load_from_cache", lambda repository, file: cache[repository])
    backbone = make("test_resnet")

    load_backbone_weights(backbone, "pretrained")

    assert torch.equal(backbone.body.conv1[0].weight, whole.conv1[0].weight)
