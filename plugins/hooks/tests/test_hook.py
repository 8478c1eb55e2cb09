"""Hooks on their own: what they keep, and that they come off."""

import pytest
import torch
from torch import nn

from callboard.errors import OptionError
from callboard_hooks import (
    Hook,
    Hooks,
    dummy_eval,
    has_params,
    hook_output,
    hook_outputs,
    model_sizes,
    num_features_model,
    total_params,
)
from callboard_hooks.hook import layers_of


def a_model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 1))


def an_image_model():
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1),
        nn.BatchNorm2d(8),
        nn.Dropout(0.5),
        nn.Conv2d(8, 16, 3, stride=2, padding=1),
    )


def num_hooks(model):
    return sum(len(m._forward_hooks) + len(m._backward_hooks) for m in model.modules())


def test_a_hook_keeps_what_its_function_returns():
    model, x = a_model(), torch.randn(5, 3)
    hook = Hook(model[0], lambda module, inputs, output: (inputs[0], output))

    model(x)

    given, output = hook.stored
    assert torch.equal(given, x)
    assert torch.equal(output, model[0](x))


def test_a_hook_does_not_change_the_output():
    model, x = a_model(), torch.randn(5, 3)
    expected = model(x)

    with Hook(model[0], lambda module, inputs, output: output * 0):
        assert torch.equal(model(x), expected)


def test_a_removed_hook_keeps_what_it_has_and_takes_no_more():
    model = a_model()
    hook = hook_output(model[0])
    model(torch.zeros(1, 3))
    kept = hook.stored

    hook.remove()
    hook.remove()
    model(torch.ones(1, 3))

    assert hook.removed
    assert hook.stored is kept


def test_a_with_statement_takes_the_hook_off():
    model = a_model()

    with hook_output(model[0]) as hook:
        assert num_hooks(model) == 1

    assert hook.removed
    assert num_hooks(model) == 0


def test_a_with_statement_takes_the_hook_off_after_an_error():
    model = a_model()

    with pytest.raises(RuntimeError), hook_outputs([model[0], model[2]]):
        model(torch.zeros(1, 99))

    assert num_hooks(model) == 0


@pytest.mark.parametrize("detach", [True, False])
def test_tensors_are_out_of_the_graph_where_asked_for(detach):
    model = a_model()

    with hook_output(model[0], detach=detach) as hook:
        model(torch.zeros(1, 3))

    assert hook.stored.requires_grad is not detach


def test_detaching_reaches_into_tuples_and_mappings():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(1))

        def forward(self, x):
            return {"a": (x * self.weight, [x * self.weight]), "b": "text"}

    model = Odd()

    with hook_output(model, cpu=True) as hook:
        model(torch.ones(2))

    assert not hook.stored["a"][0].requires_grad
    assert not hook.stored["a"][1][0].requires_grad
    assert hook.stored["b"] == "text"


def test_a_backward_hook_keeps_the_gradients_of_outputs():
    model = a_model()

    with hook_output(model[2], grad=True) as hook:
        (3 * model(torch.ones(2, 3))).sum().backward()

    (gradient,) = hook.stored
    assert gradient.tolist() == [[3.0], [3.0]]


def test_hooks_keep_a_value_for_each_module():
    model, x = a_model(), torch.randn(5, 3)

    with hook_outputs(model) as hooks:
        prediction = model(x)

    assert len(hooks) == 3
    assert [stored.shape for stored in hooks.stored] == [(5, 4), (5, 4), (5, 1)]
    assert torch.equal(hooks[2].stored, prediction)
    assert all(hook.removed for hook in hooks)


def test_hooks_that_cannot_all_be_put_on_are_not_on_at_all():
    model = a_model()

    with pytest.raises(AttributeError):
        Hooks([model[0], "no module"], lambda module, inputs, output: None)

    assert num_hooks(model) == 0


def test_parameters_are_counted():
    model = a_model()

    assert has_params(model[0])
    assert not has_params(model[1])
    assert total_params(model) == (3 * 4 + 4 + 4 + 1, True)
    assert total_params(model[2].requires_grad_(False)) == (5, False)


def test_layers_are_modules_with_parameters_of_their_own():
    model = nn.Sequential(a_model(), nn.MultiheadAttention(4, 2))

    names = list(layers_of(model))

    assert names == ["0.0", "0.2", "1", "1.out_proj"]
    assert list(layers_of(a_model(), include_paramless=True)) == ["0", "1", "2"]


def test_sizes_are_those_of_one_image():
    sizes = model_sizes(an_image_model(), (64, 64))

    assert [tuple(size) for size in sizes] == [
        (1, 8, 32, 32),
        (1, 8, 32, 32),
        (1, 8, 32, 32),
        (1, 16, 16, 16),
    ]


def test_measuring_leaves_modes_buffers_and_random_numbers_alone():
    model = an_image_model()
    model[1].eval()
    before = model[1].running_mean.clone(), torch.get_rng_state()

    dummy_eval(model)

    assert [module.training for module in model] == [True, False, True, True]
    assert torch.equal(model[1].running_mean, before[0])
    assert torch.equal(torch.get_rng_state(), before[1])
    assert num_hooks(model) == 0


def test_the_number_of_features_is_found_at_the_smallest_size_that_works():
    deep = nn.Sequential(nn.Conv2d(1, 8, 3), nn.AvgPool2d(40), nn.Conv2d(8, 24, 1))

    assert num_features_model(an_image_model()) == 16
    assert num_features_model(deep) == 24


def test_a_model_without_a_convolution_says_what_to_do():
    with pytest.raises(OptionError, match=r"no nn\.Conv2d"):
        num_features_model(a_model())
