"""Bodies, heads and Learners from architectures in the manners that there are."""

import sys
import types
from collections import OrderedDict
from functools import partial

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset, Subset

from callboard import Callback, DataLoaders, Learner
from callboard.errors import CallboardWarning, DataError, OptionError, StateError
from callboard_vision import (
    IMAGENET_STATS,
    AdaptiveConcatPool2d,
    LinBnDrop,
    Normalize,
    SigmoidRange,
    TimmBody,
    alexnet_split,
    cnn_learner,
    create_body,
    create_head,
    create_vision_model,
    cut_model,
    default_split,
    densenet_split,
    has_pool_type,
    load_weights,
    num_features_model,
    resnet_split,
    squeezenet_split,
    usual_cut,
    vgg_split,
    vision_learner,
)
from callboard_vision.splitters import splitter_for

# ---- architectures in the manners that there are ------------------------------


class Block(nn.Module):
    """A residual block."""

    def __init__(self, num_in, num_out, stride=1):
        super().__init__()
        self.conv = nn.Conv2d(num_in, num_out, 3, stride, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(num_out)
        self.skip = nn.Conv2d(num_in, num_out, 1, stride, bias=False)

    def forward(self, x):
        return functional.relu(self.bn(self.conv(x)) + self.skip(x))


class ResNet(nn.Module):
    """torchvision's manner: stages, a pooling layer, ``fc``."""

    def __init__(self, num_classes=5):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 4, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(4)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(2)
        self.layer1 = Block(4, 4)
        self.layer2 = Block(4, 8, 2)
        self.layer3 = Block(8, 8, 2)
        self.layer4 = Block(8, 16, 2)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(16, num_classes)

    def stem(self, x):
        return self.maxpool(self.relu(self.bn1(self.conv1(x))))

    def maps(self, x):
        return self.layer4(self.layer3(self.layer2(self.layer1(self.stem(x)))))

    def forward(self, x):
        return self.fc(self.avgpool(self.maps(x)).flatten(1))


class VGG(nn.Module):
    """torchvision's manner: ``features``, a pooling layer, ``classifier``."""

    def __init__(self, num_classes=5):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(4, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        )  # fmt: skip
        self.avgpool = nn.AdaptiveAvgPool2d(2)
        self.classifier = nn.Sequential(
            nn.Linear(32, 16), nn.ReLU(), nn.Dropout(), nn.Linear(16, num_classes)
        )

    def forward(self, x):
        return self.classifier(self.avgpool(self.features(x)).flatten(1))


class DenseNet(nn.Module):
    """torchvision's manner: pooling inside ``features`` and none behind."""

    def __init__(self, num_classes=5):
        super().__init__()
        self.features = nn.Sequential(
            OrderedDict(
                conv0=nn.Conv2d(3, 4, 3, padding=1),
                pool0=nn.MaxPool2d(2),
                denseblock1=Block(4, 8),
                norm5=nn.BatchNorm2d(8),
            )
        )
        self.classifier = nn.Linear(8, num_classes)

    def forward(self, x):
        maps = functional.relu(self.features(x), inplace=True)
        return self.classifier(functional.adaptive_avg_pool2d(maps, 1).flatten(1))


class SqueezeNet(nn.Module):
    """torchvision's manner: a pooling layer at the end of the classifier."""

    def __init__(self, num_classes=5):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.MaxPool2d(2))
        self.classifier = nn.Sequential(
            nn.Dropout(), nn.Conv2d(8, num_classes, 1), nn.AdaptiveAvgPool2d(1)
        )

    def forward(self, x):
        return self.classifier(self.features(x)).flatten(1)


class MobileNet(nn.Module):
    """torchvision's manner: pools in ``forward``, with no layer for it at all."""

    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.ReLU6())
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(8, 5))

    def forward(self, x):
        return self.classifier(self.features(x).mean((2, 3)))


class TimmConv(nn.Module):
    """timm's manner: features apart from the classifier."""

    num_features = 8

    def __init__(self, pretrained=False, num_classes=5):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.global_pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(8, num_classes)
        if pretrained:
            nn.init.constant_(self.stem.weight, 0.5)

    def forward_features(self, x):
        return functional.relu(self.norm(self.stem(x)) * 2)

    def forward(self, x):
        return self.fc(self.global_pool(self.forward_features(x)).flatten(1))

    def get_classifier(self):
        return self.fc

    def reset_classifier(self, num_classes):
        assert num_classes == 0
        self.fc = nn.Identity()


class TimmTransformer(nn.Module):
    """timm's manner: features are tokens, for images of one size only."""

    num_features = 6

    def __init__(self):
        super().__init__()
        self.patches = nn.Conv2d(3, 6, 32, 32)
        self.blocks = nn.Linear(6, 6)
        self.head = nn.Linear(6, 5)

    def forward_features(self, x):
        assert x.shape[-1] == 224, "wrong size"
        return self.blocks(self.patches(x).flatten(2).transpose(1, 2))

    def forward(self, x):
        return self.head(self.forward_features(x).mean(1))

    def get_classifier(self):
        return self.head


def resnet_tiny(weights=None):
    """As torchvision's functions: takes ``weights``."""
    model = ResNet()
    if weights is not None:
        assert weights in ("DEFAULT", "V1")
        nn.init.constant_(model.conv1.weight, 0.5 if weights == "DEFAULT" else 0.25)
    return model


def convnet_tiny(pretrained=False, **options):
    """As timm's functions: takes ``pretrained``."""
    return TimmConv(pretrained, **options)


class Pictures(Dataset):
    classes = ("cat", "dog", "emu", "fox")

    def __init__(self, num_channels=3, size=16):
        generator = torch.Generator().manual_seed(1)
        shape = (12, num_channels, size, size)
        brightness = torch.arange(12).view(-1, 1, 1, 1) % 4 * 0.25
        self.images = brightness + 0.1 * torch.rand(shape, generator=generator)

    def __len__(self):
        return 12

    def __getitem__(self, index):
        return self.images[index], index % 4


def make_dls(**options):
    data = Pictures(**options)
    return DataLoaders(DataLoader(data, 4), DataLoader(data, 4))


def learner_of(arch, dls=None, **options):
    torch.manual_seed(0)
    options = {"lr": 0.01, "seed": 0, "pretrained": False, **options}
    return vision_learner(dls or make_dls(), arch, **options)


IMAGES = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(3))


# ---- the body -----------------------------------------------------------------


def test_pooling_is_found_anywhere_inside():
    assert has_pool_type(nn.AdaptiveAvgPool2d(1))
    assert has_pool_type(AdaptiveConcatPool2d())
    assert has_pool_type(nn.Sequential(nn.Sequential(nn.MaxPool1d(2))))
    assert not has_pool_type(nn.Sequential(nn.Conv2d(1, 1, 1), nn.ReLU()))


@pytest.mark.parametrize(
    ("arch", "num_children", "num_features"),
    [
        (ResNet, 8, 16),
        (VGG, 1, 8),
        (DenseNet, 1, 8),
        (SqueezeNet, 1, 8),
        (MobileNet, 1, 8),
    ],
)
def test_body_ends_before_pooling_and_classifier(arch, num_children, num_features):
    model = arch().eval()

    body = create_body(model)

    assert len(body) == num_children
    assert num_features_model(body) == num_features
    for one, other in zip(body, model.children(), strict=False):
        assert one is other


def test_body_of_a_resnet_gives_what_the_resnet_pools():
    model = ResNet().eval()

    body = create_body(model)

    torch.testing.assert_close(body(IMAGES), model.maps(IMAGES))


def test_nameless_classifier_is_behind_the_last_pooling_layer():
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.MaxPool2d(2), nn.Conv2d(4, 6, 3), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 5),
    )  # fmt: skip

    assert usual_cut(model) == 4
    assert num_features_model(create_body(model)) == 6


def test_last_pooling_inside_a_block_keeps_the_block():
    model = nn.Sequential(
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.MaxPool2d(2)),
        nn.Sequential(nn.Conv2d(4, 6, 3), nn.AdaptiveAvgPool2d(2)),
        nn.Flatten(),
        nn.Linear(24, 5),
    )

    assert usual_cut(model) == 2


@pytest.mark.parametrize(
    "model", [nn.Sequential(nn.Conv2d(3, 4, 3)), nn.Sequential(), nn.MaxPool2d(2)]
)
def test_model_without_any_sign_of_an_end_is_refused(model):
    with pytest.raises(OptionError, match="not clear where the body of"):
        usual_cut(model)


@pytest.mark.parametrize(("cut", "num_children"), [(-2, 8), (4, 4), (-5, 5)])
def test_a_number_says_how_many_children_are_kept(cut, num_children):
    assert len(create_body(ResNet(), cut=cut)) == num_children


def test_a_function_makes_the_body():
    model = VGG()

    assert create_body(model, cut=lambda model: model.features) is model.features


@pytest.mark.parametrize(
    ("cut", "message"),
    [
        (0, "cut=0 leaves no layer with weights of ResNet, whose children are conv1"),
        (-10, "cut=-10 leaves no layer"),
        ("avgpool", "cut must be a number of children or a function"),
        (True, "cut must be a number of children or a function"),
        (lambda model: 3, "cut must return a module, got int"),
    ],
)
def test_cuts_that_leave_nothing_are_refused(cut, message):
    with pytest.raises(OptionError, match=f"vision: {message}"):
        cut_model(ResNet(), cut)


class Twice(ResNet):
    """Calls one of its children twice."""

    def maps(self, x):
        x = self.layer1(self.layer1(self.stem(x)))
        return self.layer4(self.layer3(self.layer2(x)))


class Skips(nn.Module):
    """Has another connection than from one child to the next."""

    def __init__(self):
        super().__init__()
        self.one = nn.Conv2d(3, 3, 1)
        self.two = nn.Conv2d(3, 3, 1)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(3, 5)

    def forward(self, x):
        return self.fc(self.pool(self.two(x + self.one(x))).flatten(1))


@pytest.mark.parametrize("arch", [Twice, Skips])
def test_model_that_is_no_sequence_of_its_children_is_refused(arch):
    with pytest.raises(OptionError, match="more than call its children one after"):
        create_body(arch())


def test_classifier_for_one_size_of_images_does_not_matter():
    class OneSize(VGG):
        def forward(self, x):
            return self.classifier(self.features(x).flatten(1))

    assert num_features_model(create_body(OneSize())) == 8


def test_looking_at_a_model_leaves_modes_statistics_and_random_numbers_alone():
    model = ResNet()
    model.bn1.eval()
    before = model.bn1.running_mean.clone(), torch.get_rng_state()
    modes = [module.training for module in model.modules()]

    num_features_model(create_body(model))

    assert torch.equal(model.bn1.running_mean, before[0])
    assert torch.equal(torch.get_rng_state(), before[1])
    assert [module.training for module in model.modules()] == modes


def test_features_of_a_model_that_takes_no_image_are_refused():
    with pytest.raises(OptionError, match="Linear made no features of an image"):
        num_features_model(nn.Linear(3, 4))


# ---- timm's manner ------------------------------------------------------------


def test_body_of_timms_manner_gives_its_features_without_the_classifier():
    model = TimmConv().eval()
    expected = model.forward_features(IMAGES)

    body = create_body(model)

    assert isinstance(body, TimmBody)
    torch.testing.assert_close(body.eval()(IMAGES), expected)
    assert not any(isinstance(each, nn.Linear) for each in body.modules())


def test_tokens_are_pooled_by_the_model_and_the_head_pools_no_more():
    model = create_vision_model(TimmTransformer, 4, pretrained=False).eval()

    images = torch.rand(2, 3, 224, 224)

    assert model(images).shape == (2, 4)
    assert num_features_model(model[0]) == 6
    assert not has_pool_type(model[1])
    assert model[1][0].num_features == 6


def test_classifier_that_nobody_tells_is_refused():
    class Untold(TimmConv):
        get_classifier = reset_classifier = None

    with pytest.raises(OptionError, match="neither reset_classifier nor"):
        create_body(Untold())


def test_a_cut_of_ones_own_is_used_for_timms_manner_too():
    body = create_body(TimmConv(), cut=lambda model: model.stem)

    assert isinstance(body, nn.Conv2d)


# ---- channels -----------------------------------------------------------------


def test_first_layer_for_one_channel_sums_the_weights():
    model = ResNet()
    weight = model.conv1.weight.detach().clone()

    body = create_body(model, 1)

    assert torch.equal(body[0].weight, weight.sum(1, keepdim=True))


def test_first_layer_for_two_channels_has_the_first_two_half_as_strong_again():
    model = ResNet()
    weight = model.conv1.weight.detach().clone()

    body = create_body(model, 2)

    assert torch.equal(body[0].weight, weight[:, :2] * 1.5)


def test_first_layer_for_more_channels_starts_the_others_at_zero():
    model = VGG()
    weight, bias = model.features[0].weight.clone(), model.features[0].bias.clone()

    body = create_body(model, 5)

    first = body[0][0]
    assert torch.equal(first.weight[:, :3], weight)
    assert first.weight[:, 3:].abs().sum() == 0
    assert torch.equal(first.bias, bias)
    assert first.padding == (1, 1)


def test_first_layer_that_is_not_pretrained_is_made_anew():
    model = ResNet()
    weight = model.conv1.weight.detach().clone()

    body = create_body(model, 4, pretrained=False)

    assert body[0].weight.shape == (4, 4, 3, 3)
    assert not torch.equal(body[0].weight[:, :3], weight)


def test_a_model_with_other_channels_trains():
    learner = learner_of(TimmConv, make_dls(num_channels=1), n_in=1)

    learner.fit(1)

    assert learner.model[0].model.stem.in_channels == 1


@pytest.mark.parametrize("n_in", [0, 1.0, True, "rgb"])
def test_numbers_of_channels_that_cannot_be_are_refused(n_in):
    with pytest.raises(OptionError, match="n_in must be a number of channels"):
        create_body(ResNet(), n_in)


def test_pretrained_layer_for_other_channels_than_three_is_not_changed():
    model = nn.Sequential(nn.Conv2d(4, 4, 3), nn.AdaptiveAvgPool2d(1))

    with pytest.raises(OptionError, match="takes 4 channels; only one of 3"):
        create_body(model, 3)


# ---- the head -----------------------------------------------------------------


def names_of(module):
    return [type(layer).__name__ for layer in module]


def test_concat_pooling_gives_maxima_then_means():
    maps = torch.randn(2, 3, 5, 5)

    pooled = AdaptiveConcatPool2d()(maps)

    expected = torch.cat([maps.amax((2, 3)), maps.mean((2, 3))], 1)
    torch.testing.assert_close(pooled.flatten(1), expected)
    assert AdaptiveConcatPool2d(2)(maps).shape == (2, 6, 2, 2)


def test_usual_head_pools_and_has_two_linear_layers():
    head = create_head(16, 4)

    assert names_of(head) == [
        "AdaptiveConcatPool2d", "Flatten",
        "BatchNorm1d", "Dropout", "Linear", "ReLU",
        "BatchNorm1d", "Dropout", "Linear",
    ]  # fmt: skip
    assert [head[3].p, head[7].p] == [0.25, 0.5]
    assert head[4].weight.shape == (512, 32)
    assert head[8].weight.shape == (4, 512)
    assert head[4].bias is None
    assert head[2].bias.unique().item() == pytest.approx(1e-3)
    assert head(torch.randn(2, 16, 3, 3)).shape == (2, 4)


def test_head_without_hidden_layers_norms_or_dropout_is_one_linear_layer():
    head = create_head(16, 4, lin_ftrs=[], ps=0, first_bn=False, concat_pool=False)

    assert names_of(head) == ["AdaptiveAvgPool2d", "Flatten", "Linear"]
    assert head[2].bias is not None


def test_head_takes_a_share_of_dropout_for_each_layer():
    head = create_head(8, 4, lin_ftrs=[32, 16], ps=[0.1, 0.2, 0.3], pool=False)

    drops = [layer.p for layer in head if isinstance(layer, nn.Dropout)]
    assert drops == [0.1, 0.2, 0.3]
    assert head(torch.randn(2, 8)).shape == (2, 4)


def test_head_with_linear_layers_first_ends_in_one():
    head = create_head(8, 4, lin_ftrs=[16], ps=[0.1, 0.2], pool=False, lin_first=True)

    assert names_of(head) == [
        "Dropout", "Linear", "ReLU", "BatchNorm1d", "Dropout", "Linear"
    ]  # fmt: skip
    assert [head[0].p, head[4].p] == [0.1, 0.2]


def test_outputs_can_be_normalised_and_kept_in_a_range():
    head = create_head(8, 4, pool=False, bn_final=True, y_range=(-1, 3))

    outputs = head(torch.randn(64, 8) * 100)

    assert names_of(head)[-2:] == ["BatchNorm1d", "SigmoidRange"]
    assert outputs.min() >= -1
    assert outputs.max() <= 3
    assert SigmoidRange(-1, 3)(torch.zeros(1)).item() == 1


def test_linear_layer_with_all_off_is_a_linear_layer():
    assert names_of(LinBnDrop(3, 4, bn=False)) == ["Linear"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ps": 1}, "ps must be at least 0 and below 1, got 1"),
        ({"ps": [0.1, 0.2, 0.3]}, "ps has 3 numbers for 2 linear layers"),
        ({"y_range": (3, 1)}, "y_range must be two numbers, the lower first"),
        ({"y_range": (1, 2, 3)}, "y_range must be two numbers"),
    ],
)
def test_heads_that_cannot_be_are_refused(options, message):
    with pytest.raises(OptionError, match=f"vision: {message}"):
        create_head(8, 4, **options)


def test_layers_of_the_head_are_initialised_and_its_norms_are_not():
    def sevens(weight):
        nn.init.constant_(weight, 7)

    model = create_vision_model(ResNet, 4, pretrained=False, init=sevens)

    head = model[1]
    assert head[4].weight.unique().item() == 7
    assert head[2].weight.unique().item() == 1
    assert not (model[0][0].weight == 7).any()


def test_a_head_of_ones_own_is_used():
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 4))

    model = create_vision_model(ResNet, 4, pretrained=False, custom_head=head)

    assert model[1] is head
    assert model(IMAGES).shape == (2, 4)


@pytest.mark.parametrize("n_out", [0, 1.5, True])
def test_numbers_of_outputs_that_cannot_be_are_refused(n_out):
    with pytest.raises(OptionError, match="n_out must be a number of outputs"):
        create_vision_model(ResNet, n_out, pretrained=False)


# ---- weights ------------------------------------------------------------------


def test_function_with_weights_gets_its_default_ones():
    model = create_vision_model(resnet_tiny, 4)

    assert model[0][0].weight.unique().item() == 0.5


def test_weights_of_another_name_go_to_the_function():
    model = create_vision_model(resnet_tiny, 4, weights="V1")

    assert model[0][0].weight.unique().item() == 0.25


def test_function_with_a_switch_gets_it_on_and_off():
    on = create_vision_model(convnet_tiny, 4)
    off = create_vision_model(partial(convnet_tiny, num_classes=3), 4, pretrained=False)

    assert on[0].model.stem.weight.unique().item() == 0.5
    assert off[0].model.stem.weight.unique().numel() > 1


def test_a_function_that_is_pretrained_by_itself_is_told_not_to_be():
    def eager(pretrained=True):
        assert not pretrained
        return ResNet()

    create_vision_model(eager, 4, pretrained=False)


def test_function_without_weights_cannot_be_pretrained():
    with pytest.raises(OptionError, match=r"ResNet has no argument `pretrained`.*PATH"):
        create_vision_model(ResNet, 4)


def test_named_weights_need_a_function_that_takes_them():
    with pytest.raises(OptionError, match="convnet_tiny has no argument `weights`"):
        create_vision_model(convnet_tiny, 4, weights="V1")


def test_weights_and_no_pretraining_contradict_each_other():
    with pytest.raises(OptionError, match="pretrained=False says that none are wanted"):
        create_vision_model(resnet_tiny, 4, weights="V1", pretrained=False)


def write_weights(path, model, change=lambda state: state):
    state = change(model.state_dict())
    if path.suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save(state, path)
    return path


def under(key):
    return lambda state: {key: state, "epoch": 3, "note": "best"}


def prefixed(state):
    return {f"module.{name}": tensor for name, tensor in state.items()}


@pytest.mark.parametrize("as_type", [str, lambda path: path])
@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("w.pth", lambda state: state),
        ("w.pt", under("state_dict")),
        ("w.bin", under("model")),
        ("w.pth", prefixed),
        ("w.safetensors", lambda state: state),
    ],
)
def test_weights_are_read_from_files(tmp_path, name, change, as_type):
    trained = ResNet(num_classes=9)
    path = write_weights(tmp_path / name, trained, change)

    model = create_vision_model(ResNet, 4, weights=as_type(path))

    for one, other in zip(model[0], trained.children(), strict=False):
        for (key, mine), theirs in zip(
            one.state_dict().items(), other.state_dict().values(), strict=True
        ):
            assert torch.equal(mine, theirs), key


def test_weights_of_a_body_alone_will_do(tmp_path):
    trained = VGG()
    path = tmp_path / "features.pth"
    torch.save(
        {f"features.{n}": t for n, t in trained.features.state_dict().items()}, path
    )

    model = create_vision_model(VGG, 4, weights=path)

    assert torch.equal(model[0][0][0].weight, trained.features[0].weight)


def test_weights_for_other_channels_come_before_the_change_of_channels(tmp_path):
    trained = ResNet()
    path = write_weights(tmp_path / "w.pth", trained)

    model = create_vision_model(ResNet, 4, weights=path, n_in=1)

    expected = trained.conv1.weight.sum(1, keepdim=True)
    torch.testing.assert_close(model[0][0].weight, expected)


def test_weights_of_another_architecture_are_refused_by_name(tmp_path):
    path = write_weights(tmp_path / "w.pth", VGG())

    with pytest.raises(StateError, match=r"not fit ResNet: conv1\.weight is missing"):
        create_vision_model(ResNet, 4, weights=path)


def test_weights_of_another_shape_are_refused_with_both_shapes(tmp_path):
    def wider(state):
        return {**state, "conv1.weight": torch.zeros(5, 3, 3, 3)}

    path = write_weights(tmp_path / "w.pth", ResNet(), wider)

    with pytest.raises(StateError, match=r"\(5, 3, 3, 3\), not \(4, 3, 3, 3\)"):
        create_vision_model(ResNet, 4, weights=path)


def test_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(OptionError, match=r"no file of weights .*nowhere\.pth"):
        create_vision_model(ResNet, 4, weights=tmp_path / "nowhere.pth")


@pytest.mark.parametrize("content", [[1, 2], {}])
def test_file_without_weights_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "w.pth")

    with pytest.raises(StateError, match="holds no weights by name"):
        create_vision_model(ResNet, 4, weights=tmp_path / "w.pth")


def test_file_that_would_run_code_runs_none(tmp_path):
    class Evil:
        def __reduce__(self):
            return (pytest.fail, ("code ran",))

    torch.save({"conv1.weight": Evil()}, tmp_path / "w.pth")

    with pytest.raises(StateError, match="more than tensors and plain data"):
        load_weights(ResNet(), tmp_path / "w.pth")


def test_safetensors_that_are_not_installed_are_asked_for(tmp_path, monkeypatch):
    path = write_weights(tmp_path / "w.safetensors", ResNet())
    monkeypatch.setitem(sys.modules, "safetensors", None)
    monkeypatch.setattr("callboard_vision.architectures.find_spec", lambda name: None)

    with pytest.raises(OptionError, match=r"callboard-vision\[safetensors\]"):
        load_weights(ResNet(), path)


# ---- names --------------------------------------------------------------------


@pytest.fixture
def packages(monkeypatch):
    """Stand-ins for packages of architectures, which need not be installed."""

    def install(*, torchvision=(), timm=()):
        made = {"torchvision": dict(torchvision), "timm": dict(timm)}
        monkeypatch.setattr(
            "callboard_vision.architectures.find_spec",
            lambda name: made.get(name) or None,
        )
        models = types.ModuleType("torchvision.models")
        models.list_models = lambda module=None: list(made["torchvision"])
        models.get_model_builder = made["torchvision"].__getitem__
        parent = types.ModuleType("torchvision")
        parent.models = models
        images = types.ModuleType("timm")
        images.list_models = lambda: list(made["timm"])
        images.model_entrypoint = made["timm"].__getitem__
        for module in (parent, models, images):
            monkeypatch.setitem(sys.modules, module.__name__, module)

    return install


def test_names_are_looked_up_in_what_is_installed(packages):
    packages(torchvision={"resnet_tiny": resnet_tiny})
    assert create_vision_model("resnet_tiny", 4)[0][0].weight.unique().item() == 0.5

    packages(timm={"convnet_tiny": convnet_tiny})
    assert isinstance(create_vision_model("convnet_tiny", 4)[0], TimmBody)


def test_name_that_both_know_must_say_which(packages):
    packages(torchvision={"net": resnet_tiny}, timm={"net": convnet_tiny})

    with pytest.raises(OptionError, match='"torchvision:net" or "timm:net"'):
        create_vision_model("net", 4)

    assert isinstance(create_vision_model("timm:net", 4)[0], TimmBody)
    assert isinstance(create_vision_model("torchvision:net", 4)[0], nn.Sequential)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnt_tiny", 'know no architecture .* Did you mean "resnet_tiny"'),
        ("keras:resnet_tiny", "before the colon stands the package"),
        ("timm:resnet_tiny", "timm that could know it are not installed"),
    ],
)
def test_names_that_nobody_knows_are_refused(packages, name, message):
    packages(torchvision={"resnet_tiny": resnet_tiny})

    with pytest.raises(OptionError, match=message):
        create_vision_model(name, 4)


def test_names_need_a_package_that_knows_names(packages):
    packages()

    with pytest.raises(OptionError, match=r"Install one \(callboard-vision\["):
        create_vision_model("resnet18", 4)


def test_a_model_is_no_architecture():
    with pytest.raises(OptionError, match="Give the function, as resnet34"):
        create_vision_model(ResNet(), 4)


def test_a_function_that_builds_no_model_is_refused():
    with pytest.raises(OptionError, match="arch must return a torch"):
        create_vision_model(type("dict", (dict,), {}), 4, pretrained=False)


# ---- parameter groups ---------------------------------------------------------


def test_usual_groups_are_body_and_head():
    model = create_vision_model(ResNet, 4, pretrained=False)

    body, head = default_split(model)

    assert body is model[0]
    assert next(head.parameters()) is model[1][2].weight


def test_groups_of_a_resnet_are_two_halves_of_the_body_and_the_head():
    learner = learner_of(ResNet, splitter=resnet_split)
    learner.create_opt()

    sizes = [len(group["params"]) for group in learner.opt.param_groups]
    body = learner.model[0]
    assert sizes == [
        len(list(body[:6].parameters())),
        len(list(body[6:].parameters())),
        len(list(learner.model[1].parameters())),
    ]


@pytest.mark.parametrize(
    ("splitter", "place"),
    [
        (squeezenet_split, 5), (densenet_split, 7), (vgg_split, 22), (alexnet_split, 6)
    ],
)  # fmt: skip
def test_groups_of_features_in_sequence_are_cut_at_a_layer(splitter, place):
    features = nn.Sequential(*[nn.Conv2d(1, 1, 1) for _ in range(30)])
    model = nn.Sequential(nn.Sequential(features), nn.Linear(1, 1))

    first, second, head = splitter(model)

    assert (len(first), len(second), len(head)) == (place, 30 - place, 1)


@pytest.mark.parametrize(
    ("origin", "name", "splitter"),
    [
        ("torchvision", "resnet34", resnet_split),
        ("torchvision", "wide_resnet50_2", resnet_split),
        ("torchvision", "resnext50_32x4d", resnet_split),
        ("torchvision", "vgg11_bn", vgg_split),
        ("torchvision", "densenet121", densenet_split),
        ("torchvision", "squeezenet1_1", squeezenet_split),
        ("torchvision", "alexnet", alexnet_split),
        ("torchvision", "convnext_tiny", default_split),
        ("timm", "resnet34", default_split),
        ("mine", "resnet34", default_split),
    ],
)
def test_three_groups_are_for_torchvisions_own_only(origin, name, splitter):
    assert splitter_for(origin, name) is splitter


# ---- the Learner --------------------------------------------------------------


def trains(learner):
    return [
        [parameter.requires_grad for parameter in group["params"]]
        for group in learner.opt.param_groups
    ]


def test_pretrained_body_is_frozen_but_for_its_norms():
    learner = learner_of(resnet_tiny, pretrained=True)

    body, head = trains(learner)
    assert all(head)
    norms = [m for m in learner.model[0].modules() if isinstance(m, nn.BatchNorm2d)]
    kept = {id(p) for norm in norms for p in norm.parameters()}
    assert body == [id(p) in kept for p in learner.model[0].parameters()]


def test_norms_are_frozen_too_where_asked_for():
    learner = learner_of(resnet_tiny, pretrained=True, train_bn=False)

    assert not any(trains(learner)[0])


def test_frozen_body_stays_as_it_is_and_the_head_learns():
    learner = learner_of(resnet_tiny, pretrained=True, train_bn=False)
    before = {n: p.detach().clone() for n, p in learner.model.named_parameters()}

    learner.fit(1)

    changed = {
        name
        for name, parameter in learner.model.named_parameters()
        if not torch.equal(parameter, before[name])
    }
    assert changed == {name for name in before if name.startswith("1.")}


def test_body_that_is_not_pretrained_learns_at_once():
    learner = learner_of(resnet_tiny)

    learner.fit(1)

    assert all(p.requires_grad for p in learner.model.parameters())


@pytest.mark.parametrize(
    "arch", [ResNet, VGG, DenseNet, SqueezeNet, MobileNet, TimmConv]
)
def test_every_manner_of_architecture_learns(arch):
    class Losses(Callback):
        def __init__(self):
            self.seen = []

        def after_batch(self):
            if self.training:
                self.seen.append(self.learn.loss.item())

    losses = Losses()

    learner_of(arch, ps=0, cbs=losses).fit(8)

    assert sum(losses.seen[-3:]) < 0.5 * sum(losses.seen[:3])


def test_number_of_outputs_and_loss_come_from_the_classes_of_the_dataset():
    data = Subset(Subset(Pictures(), range(8)), range(4))

    learner = learner_of(ResNet, DataLoader(data, 4))

    assert learner.model[1][-1].out_features == 4
    assert isinstance(learner.loss_func, nn.CrossEntropyLoss)


@pytest.mark.parametrize(
    ("options", "message"),
    [({}, "n_out was not given"), ({"n_out": 4}, "loss_func was not given")],
)
def test_what_data_does_not_tell_must_be_given(options, message):
    images, labels = torch.rand(4, 3, 16, 16), torch.arange(4)

    with pytest.raises(OptionError, match=f"vision: {message}"):
        learner_of(ResNet, [(images, labels)], **options)


def test_given_outputs_loss_and_splitter_are_taken():
    def everything(model):
        return list(model.parameters())

    learner = learner_of(
        ResNet, n_out=1, loss_func=nn.MSELoss(), splitter=everything, y_range=(0, 1)
    )
    learner.create_opt()

    assert learner.model[1][-2].out_features == 1
    assert len(learner.opt.param_groups) == 1


def test_freezing_with_a_single_group_says_that_nothing_is_frozen():
    with pytest.warns(CallboardWarning, match="one parameter group"):
        learner_of(
            resnet_tiny, pretrained=True, splitter=lambda m: list(m.parameters())
        )


def test_cnn_learner_is_the_same_function():
    assert cnn_learner is vision_learner


def test_a_fine_tuned_learner_changes_body_and_head():
    fine_tune = pytest.importorskip("callboard_fine_tune").fine_tune
    learner = learner_of(resnet_tiny, pretrained=True)
    before = learner.model[0][0].weight.detach().clone()

    fine_tune(learner, 1, 0.01)

    assert all(p.requires_grad for p in learner.model.parameters())
    assert not torch.equal(learner.model[0][0].weight, before)


def test_state_of_a_vision_learner_goes_into_another():
    learner = learner_of(resnet_tiny, pretrained=True)
    learner.fit(1)

    other = learner_of(resnet_tiny, pretrained=True)
    other.load_state_dict(learner.state_dict())

    for mine, theirs in zip(
        learner.model.parameters(), other.model.parameters(), strict=True
    ):
        assert torch.equal(mine, theirs)


# ---- normalisation ------------------------------------------------------------


def test_images_are_normalised_in_training_and_in_evaluations():
    seen = []

    learner = learner_of(ResNet, normalize=True)
    learner.model.register_forward_pre_hook(lambda module, x: seen.append(x[0].clone()))

    learner.fit(1)
    learner.validate()

    mean, std = (torch.tensor(each).view(1, -1, 1, 1) for each in IMAGENET_STATS)
    expected = (Pictures().images[:4] - mean) / std
    for number in (0, 3, 6):  # training, its validation, validate()
        torch.testing.assert_close(seen[number], expected)


def test_statistics_of_ones_own_are_taken():
    learner = learner_of(
        ResNet, make_dls(num_channels=1), n_in=1, normalize=([0.5], [0.25])
    )

    assert learner.normalize.mean == (0.5,)
    learner.fit(1)


def test_other_callbacks_stay_beside_it():
    learner = learner_of(ResNet, normalize=True, cbs=Recording)

    assert list(learner.cbs.keys()) == ["normalize", "recording"]


def test_images_are_resized_then_normalised_then_mixed():
    names = ("mixup", "cutmix", "channels-last", "progressive-resizing")
    others = [type(name, (Recording,), {"name": name})() for name in names]
    learner = learner_of(ResNet, normalize=True, cbs=others)

    assert list(learner.cbs.keys())[:2] == ["progressive-resizing", "normalize"]


class Recording(Callback):
    def after_batch(self):
        pass


def test_named_inputs_are_normalised():
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(3, 4)

        def forward(self, pixels, number):
            self.seen = pixels
            return self.linear(pixels.mean((2, 3)))

    images = torch.rand(4, 3, 8, 8)
    batch = {"pixels": images, "number": torch.arange(4), "label": torch.arange(4)}
    model = Named()
    learner = Learner(
        [batch, batch],
        model,
        nn.CrossEntropyLoss(),
        cbs=Normalize((0.5,) * 3, (2,) * 3),
    )

    learner.fit(1)

    torch.testing.assert_close(model.seen, (images - 0.5) / 2)
    assert torch.equal(batch["pixels"], images)


@pytest.mark.parametrize(
    "images", [torch.zeros(4, 3, 8, 8, dtype=torch.uint8), torch.zeros(4, 1, 8, 8)]
)
def test_inputs_that_are_no_such_images_are_refused(images):
    learner = Learner(
        [(images, torch.arange(4))] * 2, ResNet(), nn.CrossEntropyLoss(), cbs=Normalize
    )

    with pytest.raises(DataError, match="normalize: no input is a floating-point"):
        learner.fit(1)


@pytest.mark.parametrize(
    ("mean", "std", "message"),
    [
        ((0.5,), (0.5, 0.5), "one number for each channel, got 1 and 2"),
        ((), (), "one number for each channel, got 0 and 0"),
        ((0.5,), (0.0,), "std must be above 0"),
    ],
)
def test_statistics_that_cannot_be_are_refused(mean, std, message):
    with pytest.raises(OptionError, match=f"normalize: .*{message}"):
        Normalize(mean, std)


@pytest.mark.parametrize(
    ("normalize", "message"),
    [
        (3, "normalize must be True, False or"),
        (
            ([0.5], [0.5]),
            "normalize has numbers for 1 channels, and the images have n_in=3",
        ),
    ],
)
def test_normalisation_that_does_not_fit_is_refused(normalize, message):
    with pytest.raises(OptionError, match=f"vision: {message}"):
        learner_of(ResNet, normalize=normalize)
