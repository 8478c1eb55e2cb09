"""Whose turn it is, what that leaves alone, and that a GAN learns digits."""

import copy
import math
from functools import partial

import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from callboard import Callback, CancelEpochException, DataLoaders, Learner
from callboard.errors import ActivationError, DataError, OptionError
from callboard_gan import (
    AdaptiveGANSwitcher,
    AdaptiveLoss,
    AddChannels,
    FixedGANSwitcher,
    GANDiscriminativeLR,
    GANLearner,
    GANLoss,
    GANModule,
    GANTrainer,
    SelfAttention,
    accuracy_thresh_expand,
    basic_critic,
    basic_generator,
    gan_critic,
    gan_from_learners,
    gan_learner,
    gan_loss_from_func,
    gan_splitter,
    wgan_critic_loss,
    wgan_generator_loss,
    wgan_learner,
)
from callboard_gan.trainer import SmoothedLosses
from callboard_gather_preds import get_preds
from callboard_recorder import Recorder
from callboard_schedule import ParamScheduler

bce = functional.binary_cross_entropy_with_logits


def make_pairs(num_items=24):
    """Noise and what is real: points around (3, -3)."""
    generator = torch.Generator().manual_seed(1)
    noise = torch.randn(num_items, 2, generator=generator)
    return TensorDataset(noise, noise.flip(1) * 0.1 + torch.tensor([3.0, -3.0]))


def make_dls(valid=True):
    data = make_pairs()
    return DataLoaders(DataLoader(data, 4), DataLoader(data, 8) if valid else None)


def a_generator():
    return nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2))


def a_critic():
    return nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 1))


def make_learner(*cbs, dls=None, losses=None, maker=gan_learner, **options):
    torch.manual_seed(0)
    generator, critic = a_generator(), a_critic()
    if maker is gan_learner:
        losses = losses or gan_loss_from_func(functional.l1_loss, bce, (1, 0))
        maker = partial(gan_learner, gen_loss_func=losses[0], crit_loss_func=losses[1])
    options = {"opt_func": partial(torch.optim.Adam, betas=(0.5, 0.99)), **options}
    return maker(
        dls or make_dls(),
        generator=generator,
        critic=critic,
        cbs=[*cbs],
        seed=0,
        lr=options.pop("lr", 0.01),
        **options,
    )


def values_of(network):
    return {name: each.detach().clone() for name, each in network.state_dict().items()}


def changed(before, after):
    return {name for name in before if not torch.equal(before[name], after[name])}


class Watch(Callback):
    """Notes at every training batch whose turn it was and whose weights changed."""

    run_before = "gan-trainer"

    def __init__(self):
        self.turns, self.moved, self.losses = [], [], []

    def before_batch(self):
        if self.training:
            gan = self.learn.model
            self.turns.append("gen" if self.learn.gan_trainer.gen_mode else "crit")
            self._before = values_of(gan.generator), values_of(gan.critic)

    def after_step(self):
        gan = self.learn.model
        after = values_of(gan.generator), values_of(gan.critic)
        self.moved.append(
            tuple(changed(b, a) for b, a in zip(self._before, after, strict=True))
        )

    def after_batch(self):
        if self.training:
            self.losses.append(self.learn.loss.item())


WEIGHTS = {"0.weight", "0.bias", "1.weight", "1.bias", "3.weight", "3.bias"}
STATISTICS = {"1.running_mean", "1.running_var", "1.num_batches_tracked"}


# ---- turns --------------------------------------------------------------------


def test_critic_and_generator_take_turns_across_epochs():
    watch = Watch()

    make_learner(watch).fit(2)

    assert watch.turns == ["crit", "gen"] * 6


def test_generator_can_be_first():
    watch = Watch()

    make_learner(watch, gen_first=True).fit(1)

    assert watch.turns == ["gen", "crit"] * 3


def test_turns_may_be_of_any_length_and_go_on_where_an_epoch_ended():
    watch = Watch()

    # Six batches an epoch, validation between: a turn of four ends in the second.
    make_learner(watch, switcher=FixedGANSwitcher(n_crit=4, n_gen=3)).fit(3)

    assert watch.turns == (["crit"] * 4 + ["gen"] * 3) * 2 + ["crit"] * 4


def test_a_turn_that_is_longer_than_an_epoch_comes_to_an_end():
    watch = Watch()

    make_learner(watch, switcher=FixedGANSwitcher(n_crit=8)).fit(2)

    assert watch.turns == ["crit"] * 8 + ["gen"] + ["crit"] * 3


def test_length_of_a_turn_may_hang_on_the_turn_before():
    asked = []

    def twice(num_before):
        asked.append(num_before)
        return 2 * num_before

    watch = Watch()

    make_learner(watch, switcher=FixedGANSwitcher(n_crit=1, n_gen=twice)).fit(1)

    assert watch.turns == ["crit", "gen", "gen"] * 2
    assert set(asked) == {1}


@pytest.mark.parametrize("switch_eval", [True, False])
def test_the_other_network_is_untouched_in_every_turn(switch_eval):
    watch = Watch()

    make_learner(watch, switch_eval=switch_eval).fit(2)

    for turn, (generator, critic) in zip(watch.turns, watch.moved, strict=True):
        mine, other = (generator, critic) if turn == "gen" else (critic, generator)
        assert mine == WEIGHTS | STATISTICS
        # Without switch_eval the other one sees the batch in training mode.
        assert other == (set() if switch_eval else STATISTICS)


def test_weight_decay_and_momentum_do_not_move_the_other_network_either():
    opt_func = partial(torch.optim.SGD, momentum=0.9, weight_decay=0.1)
    watch = Watch()

    make_learner(watch, opt_func=opt_func, switch_eval=True).fit(2)

    for turn, (generator, critic) in zip(watch.turns, watch.moved, strict=True):
        assert (critic if turn == "gen" else generator) == set()


def test_the_critics_loss_is_that_of_real_items_and_fakes():
    watch, dls = Watch(), make_dls(valid=False)
    learner = make_learner(watch, dls=dls)
    gan = copy.deepcopy(learner.model)

    learner.fit(1)

    noise, real = (part[:4] for part in make_pairs().tensors)
    with torch.no_grad():
        fake = gan.generator.eval()(noise)
        real_pred, fake_pred = gan.critic(real), gan.critic(fake)
    ones = torch.ones(4, 1)
    expected = (bce(real_pred, ones) + bce(fake_pred, ones * 0)) / 2
    assert watch.losses[0] == pytest.approx(expected.item(), rel=1e-5)


def test_the_generators_loss_is_how_little_the_critic_is_fooled():
    watch = Watch()
    losses = gan_loss_from_func(functional.l1_loss, bce, (2, 3))
    learner = make_learner(watch, gen_first=True, losses=losses)
    gan = copy.deepcopy(learner.model)

    learner.fit(1)

    noise, real = (part[:4] for part in make_pairs().tensors)
    with torch.no_grad():
        fake = gan.generator(noise)
        fooled = bce(gan.critic.eval()(fake), torch.ones(4, 1))
        expected = 2 * fooled + 3 * functional.l1_loss(fake, real)
    assert watch.losses[0] == pytest.approx(expected.item(), rel=1e-5)


def test_adaptive_turns_end_when_the_loss_is_low_enough():
    watch = Watch()
    switcher = AdaptiveGANSwitcher(gen_thresh=None, critic_thresh=0.7)

    make_learner(watch, switcher=switcher, lr=0.05).fit(2)

    for number, (turn, loss) in enumerate(
        zip(watch.turns[:-1], watch.losses[:-1], strict=True)
    ):
        is_over = turn == "gen" or loss < 0.7
        assert (watch.turns[number + 1] != turn) == is_over
    assert {"gen", "crit"} == set(watch.turns)
    assert any(watch.turns[n : n + 2] == ["crit", "crit"] for n in range(12))


def test_adaptive_turns_without_thresholds_alternate():
    watch = Watch()

    make_learner(watch, switcher=AdaptiveGANSwitcher()).fit(1)

    assert watch.turns == ["crit", "gen"] * 3


def test_a_switcher_of_ones_own_calls_switch():
    class Thirds(Callback):
        run_after = "gan-trainer"

        def after_batch(self):
            if self.training and self.train_iter % 3 == 0:
                self.learn.gan_trainer.switch()

    watch = Watch()

    make_learner(watch, switcher=Thirds()).fit(1)

    assert watch.turns == ["crit"] * 3 + ["gen"] * 3


# ---- Wasserstein --------------------------------------------------------------


class Bounds(Callback):
    """The largest weight of the critic after every batch."""

    run_after = "gan-trainer"

    def __init__(self):
        self.seen = []

    def after_batch(self):
        critic = self.learn.model.critic
        self.seen.append(max(p.abs().max().item() for p in critic.parameters()))


def test_clipped_weights_of_the_critic_never_leave_their_bounds():
    bounds, watch = Bounds(), Watch()
    learner = make_learner(bounds, watch, maker=wgan_learner, clip=0.05)

    learner.fit(2)

    assert watch.turns[:7] == ["crit"] * 5 + ["gen", "crit"]
    assert max(bounds.seen) <= 0.05 + 1e-7
    assert max(p.abs().max() for p in learner.model.generator.parameters()) > 0.05


def test_losses_of_a_wasserstein_gan_are_differences_of_means():
    real, fake = torch.tensor([[3.0], [5.0]]), torch.tensor([[1.0], [2.0]])

    assert wgan_critic_loss(real, fake).item() == 2.5  # 4 - 1.5
    assert wgan_generator_loss(fake, real, real).item() == 1.5


# ---- the critic's rate --------------------------------------------------------


class Rates(Callback):
    """The learning rate that each step is really taken at."""

    def __init__(self):
        self.seen = []

    def before_fit(self):
        step = self.learn.opt.step

        def noted(*arguments):
            groups = self.learn.opt.param_groups
            self.seen.append([group["lr"] for group in groups])
            return step(*arguments)

        self.learn.opt.step = noted


def test_the_critics_steps_are_taken_at_its_own_rate():
    rates = Rates()
    learner = make_learner(rates, GANDiscriminativeLR(mult_lr=3), lr=0.01)

    learner.fit(1)

    assert rates.seen == [pytest.approx([0.03, 0.03]), [0.01, 0.01]] * 3
    assert learner.opt.param_groups[0]["lr"] == 0.01


def test_the_critics_rate_follows_a_schedule():
    rates = Rates()
    schedule = ParamScheduler({"lr": lambda pct: 0.1 + pct})

    make_learner(rates, GANDiscriminativeLR(2), schedule).fit(1)

    pcts = [number / 6 for number in range(6)]
    expected = [(0.1 + pct) * (1 if n % 2 else 2) for n, pct in enumerate(pcts)]
    assert [group[0] for group in rates.seen] == pytest.approx(expected)


def test_the_critics_rate_is_put_back_when_its_step_fails():
    class Fail(Callback):
        def do_step(self):
            raise RuntimeError("a fault")

    learner = make_learner(GANDiscriminativeLR(), Fail())

    with pytest.raises(RuntimeError, match="a fault"):
        learner.fit(1)

    assert learner.opt.param_groups[0]["lr"] == 0.01


def test_generator_and_critic_may_have_rates_of_their_own():
    rates = Rates()

    make_learner(rates, lr=[0.001, 0.004]).fit(1)

    assert rates.seen[0] == [0.001, 0.004]


# ---- evaluations --------------------------------------------------------------


def test_the_generator_answers_in_evaluations_whose_turn_it_ever_is():
    class Look(Callback):
        def after_step(self):
            learn = self.learn
            before = learn.model.gen_mode, [m.training for m in learn.model.modules()]
            noise = make_pairs().tensors[0]
            preds, targets = get_preds(learn)
            with torch.no_grad():
                modes = [(m, m.training) for m in learn.model.modules()]
                expected = learn.model.generator.eval()(noise)
                for module, mode in modes:
                    module.training = mode
            torch.testing.assert_close(preds, expected)
            assert torch.equal(targets, make_pairs().tensors[1])
            learn.validate()
            after = learn.model.gen_mode, [m.training for m in learn.model.modules()]
            assert after == before

    watch = Watch()

    make_learner(watch, Look()).fit(1)

    assert watch.turns == ["crit", "gen"] * 3


def test_in_evaluations_it_says_that_the_generator_answers():
    class Watch(Callback):
        stages = ("fit", "validate")

        def __init__(self):
            self.modes = []
            self.saved = []

        def after_loss(self):
            if not self.training:
                self.modes.append(self.learn.gan_trainer.gen_mode)
                self.saved.append(self.learn.gan_trainer.state_dict()["gen_mode"])

    watch = Watch()
    learner = make_learner(watch, switcher=FixedGANSwitcher(n_crit=100))

    learner.fit(2)

    assert set(watch.modes) == {True}
    assert set(watch.saved) == {False}  # whose turn it is in training
    assert len(learner.gan_trainer.gen_losses) == 0


def test_evaluations_change_no_bit_of_a_fit():
    class Look(Callback):
        def after_step(self):
            get_preds(self.learn)
            self.learn.validate()

    def weights(*cbs):
        learner = make_learner(*cbs)
        learner.fit(2)
        return values_of(learner.model)

    assert changed(weights(Look()), weights()) == set()


def test_validation_measures_the_generator():
    recorder = Recorder()
    learner = make_learner(recorder)
    learner.fit(1)

    noise, _ = make_pairs().tensors
    model = learner.model.eval()
    with torch.no_grad():
        fooled = bce(model.critic(model.generator(noise)), torch.ones(24, 1))
    assert learner.validate()["valid_loss"] == pytest.approx(fooled.item(), rel=1e-5)
    assert recorder.values[0]["valid_loss"] == pytest.approx(fooled.item(), rel=1e-5)


def test_metrics_are_of_what_the_generator_makes():
    def distance(made, real):
        return (made - real).abs().mean()

    recorder = Recorder()
    learner = make_learner(recorder, metrics=distance)
    learner.fit(1)

    noise, real = make_pairs().tensors
    with torch.no_grad():
        made = learner.model.eval()(noise)
    expected = (made - real).abs().mean().item()
    assert recorder.values[0]["distance"] == pytest.approx(expected, rel=1e-5)


def test_items_are_made_of_noise_alone():
    learner = make_learner()
    learner.fit(1)

    preds, targets = get_preds(learner, dl=[(torch.zeros(3, 2),)])

    assert preds.shape == (3, 2)
    assert targets is None


def test_losses_of_both_are_published_for_every_epoch():
    class Results(Callback):
        run_after = "gan-trainer"

        def after_epoch(self):
            self.seen = dict(self.learn.results)

    results, watch = Results(), Watch()

    make_learner(results, watch).fit(1)

    crit, gen = watch.losses[::2], watch.losses[1::2]
    assert results.seen["crit_loss"] == pytest.approx(sum(crit) / 3)
    assert results.seen["gen_loss"] == pytest.approx(sum(gen) / 3)


def test_a_network_that_had_no_turn_in_an_epoch_has_no_loss():
    learner = make_learner(switcher=FixedGANSwitcher(n_crit=100))

    learner.fit(1)

    assert "gen_loss" not in learner.results
    assert math.isfinite(learner.results["crit_loss"])


def test_losses_of_an_epoch_that_was_cancelled_do_not_count_in_the_next():
    class Cancel(Callback):
        def after_batch(self):
            if self.epoch == 0 and self.iter == 2:
                raise CancelEpochException("enough")

    watch = Watch()
    learner = make_learner(watch, Cancel(), switcher=FixedGANSwitcher(n_crit=100))

    learner.fit(2)

    second = watch.losses[3:]
    assert learner.results["crit_loss"] == pytest.approx(sum(second) / len(second))


def test_smoothed_losses_are_bias_corrected_means():
    watch = Watch()
    learner = make_learner(watch, gen_first=True)

    learner.fit(1)

    crit = watch.losses[1::2]
    mean, expected = 0.0, []
    for count, loss in enumerate(crit, 1):
        mean = 0.98 * mean + 0.02 * loss
        expected.append(mean / (1 - 0.98**count))
    assert learner.gan_trainer.crit_losses == pytest.approx(expected)
    assert len(learner.gan_trainer.gen_losses) == 3


def test_memory_of_losses_is_bounded():
    losses = SmoothedLosses(0.9)

    for _ in range(25_000):
        losses.add(torch.ones(()))
    losses.read()

    assert len(losses.points) < 10_000
    assert losses.count == 25_000
    assert losses.points[-1] == pytest.approx(1.0)


# ---- what a fit leaves --------------------------------------------------------


def test_after_a_fit_both_can_be_trained_and_the_generator_answers():
    learner = make_learner()

    learner.fit(1)

    assert all(p.requires_grad for p in learner.model.parameters())
    noise = torch.zeros(3, 2)
    assert torch.equal(learner.model.eval()(noise), learner.model.generator(noise))


def test_what_the_user_froze_stays_frozen():
    learner = make_learner()
    frozen = learner.model.critic[0].weight
    frozen.requires_grad_(False)
    before = frozen.clone()

    learner.fit(2)

    assert torch.equal(frozen, before)
    flags = {n: p.requires_grad for n, p in learner.model.named_parameters()}
    assert [name for name, flag in flags.items() if not flag] == ["critic.0.weight"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_error_leaves_both_networks_as_they_were(error):
    class Fail(Callback):
        def after_pred(self):
            if self.training and self.iter == 1:
                raise error("a fault")

    learner = make_learner(Fail())

    with pytest.raises(error):
        learner.fit(1)

    assert all(p.requires_grad for p in learner.model.parameters())
    assert learner.model.gen_mode


def test_a_second_fit_begins_anew():
    watch = Watch()
    learner = make_learner(watch, switcher=FixedGANSwitcher(n_crit=4))
    learner.fit(1)

    learner.fit(1)

    assert watch.turns == (["crit"] * 4 + ["gen", "crit"]) * 2
    assert len(learner.gan_trainer.crit_losses) == 5


def test_a_search_for_a_rate_leaves_the_turns_and_the_losses_of_a_fit_alone():
    class Search(Callback):
        def after_step(self):
            learn = self.learn
            state = copy.deepcopy((learn.model.state_dict(), learn.opt.state_dict()))
            trainer = learn.gan_trainer
            before = trainer.gen_mode, list(trainer.gen_losses)
            flags = [p.requires_grad for p in learn.model.parameters()]
            with learn.evaluating("lr-find"):
                learn.fit(1)
            learn.model.load_state_dict(state[0])
            learn.opt.load_state_dict(state[1])
            assert (trainer.gen_mode, trainer.gen_losses) == before
            assert [p.requires_grad for p in learn.model.parameters()] == flags

    watch = Watch()

    learner = make_learner(watch, Search(), switcher=EveryBatch())
    learner.fit(1)

    assert watch.turns == ["crit", "gen"] * 3
    assert len(learner.gan_trainer.gen_losses) == 3


class EveryBatch(Callback):
    run_after = "gan-trainer"

    def after_batch(self):
        if self.training:
            self.learn.gan_trainer.switch()


class StopAt(Callback):
    """Keeps the state after so many batches."""

    def __init__(self, count):
        self.count = count
        self.state = None

    def checkpoint(self):
        if self.learn.train_iter == self.count and self.state is None:
            self.state = copy.deepcopy(self.learn.state_dict())


@pytest.mark.parametrize("count", [1, 2, 5, 6, 7, 9])
@pytest.mark.parametrize(
    "switcher",
    [lambda: FixedGANSwitcher(4, 2), lambda: AdaptiveGANSwitcher(0.7, 0.69)],
    ids=["fixed", "adaptive"],
)
def test_a_run_that_goes_on_is_the_run_that_was_never_stopped(count, switcher):
    def learner_with(*cbs):
        return make_learner(GANDiscriminativeLR(2), *cbs, switcher=switcher(), clip=0.5)

    stop = StopAt(count)
    straight = learner_with(stop)
    straight.fit(2)

    resumed = learner_with(StopAt(-1))
    resumed.fit(2, resume=stop.state, resume_policy="ignore")

    assert changed(values_of(straight.model), values_of(resumed.model)) == set()
    for name in ("gen_losses", "crit_losses", "gen_mode"):
        mine = getattr(straight.gan_trainer, name)
        assert getattr(resumed.gan_trainer, name) == mine
    assert resumed.results["crit_loss"] == straight.results["crit_loss"]


def test_state_of_a_turn_leaves_a_learner_that_can_train_both():
    stop = StopAt(1)
    learner = make_learner(stop)
    learner.model.critic[0].bias.requires_grad_(False)
    learner.fit(1)

    other = make_learner(StopAt(-1))
    other.load_state_dict(stop.state)

    frozen = [n for n, p in other.model.named_parameters() if not p.requires_grad]
    assert frozen == ["critic.0.bias"]
    other.fit(1)


def test_state_holds_the_networks_once():
    state = make_learner().state_dict()

    assert state["loss_func"] == {}
    assert len(state["model"]) == 18


def test_two_runs_with_one_seed_agree():
    def weights():
        learner = make_learner()
        learner.fit(2)
        return values_of(learner.model)

    assert changed(weights(), weights()) == set()


# ---- images -------------------------------------------------------------------


def test_an_item_of_each_epoch_is_kept_and_drawn():
    pytest.importorskip("matplotlib").use("Agg")
    learner = make_learner()
    learner.fit(3)

    figure = learner.gan_trainer.plot_imgs(num_columns=2)

    trainer = learner.gan_trainer
    assert trainer.titles == ["Epoch 0", "Epoch 1", "Epoch 2"]
    assert [img.shape for img in trainer.imgs] == [(2,)] * 3
    titles = [place.get_title() for place in figure.axes]
    assert titles == ["Epoch 0", "Epoch 1", "Epoch 2", ""]


def test_no_item_is_kept_where_none_is_wanted():
    learner = make_learner(show_img=False)
    learner.fit(1)

    assert learner.gan_trainer.imgs == []
    with pytest.raises(OptionError, match="no image was kept"):
        learner.gan_trainer.plot_imgs()


# ---- ways to make one ---------------------------------------------------------


def test_groups_are_generator_and_critic_frozen_or_not():
    gan = GANModule(nn.Linear(2, 2), nn.Linear(2, 1))
    gan.critic.weight.requires_grad_(False)

    groups = gan_splitter(gan)

    assert groups[0] == list(gan.generator.parameters())
    assert groups[1] == list(gan.critic.parameters())


def test_trained_learners_become_a_gan():
    torch.manual_seed(0)
    pairs = DataLoaders(DataLoader(make_pairs(), 4))
    gen_learn = Learner(pairs, a_generator(), nn.MSELoss())
    scored = [(make_pairs().tensors[1], torch.ones(24))]
    crit_learn = Learner(scored, a_critic(), AdaptiveLoss(nn.BCEWithLogitsLoss()))
    gen_learn.fit(1)
    crit_learn.fit(1)
    watch = Watch()

    learner = gan_from_learners(
        gen_learn, crit_learn, weights_gen=(1, 50), cbs=watch, lr=1e-3, seed=0
    )
    learner.fit(1)

    assert learner.model.generator is gen_learn.model
    assert learner.model.critic is crit_learn.model
    assert learner.dls is gen_learn.dls
    assert watch.turns == ["crit", "gen"] * 3
    assert all(map(math.isfinite, watch.losses))


def test_learners_without_a_loss_make_no_gan():
    learner = Learner([(torch.zeros(1, 2),)], a_generator())

    with pytest.raises(OptionError, match="gen_learn has no loss_func"):
        gan_from_learners(learner, learner)


def test_fastais_way_to_write_it_is_the_same():
    options = {"dls": make_dls(), "generator": a_generator(), "critic": a_critic()}

    plain = GANLearner(
        **options, gen_loss_func=wgan_generator_loss, crit_loss_func=wgan_critic_loss
    )
    wgan = GANLearner.wgan(**options)

    assert isinstance(plain, Learner)
    assert plain.gan_trainer.clip is None
    assert wgan.gan_trainer.clip == 0.01
    assert wgan.fixed_gan_switcher.n_crit == 5
    assert GANLearner.from_learners is gan_from_learners


def test_a_learner_put_together_by_hand_will_do():
    torch.manual_seed(0)
    gan = GANModule(a_generator(), a_critic())
    loss = GANLoss(wgan_generator_loss, wgan_critic_loss, gan)
    watch = Watch()
    learner = Learner(
        make_dls(), gan, loss, cbs=[FixedGANSwitcher(), watch, GANTrainer(clip=0.1)]
    )

    learner.fit(1)

    assert watch.turns == ["crit", "gen"] * 3
    assert math.isfinite(loss.gen_loss.item())
    assert math.isfinite(loss.crit_loss.item())


def test_a_copy_of_a_learner_has_networks_of_its_own():
    learner = make_learner()

    other = copy.deepcopy(learner)
    other.fit(1)

    assert other.loss_func._gan[0] is other.model
    assert changed(values_of(learner.model), values_of(make_learner().model)) == set()


def test_losses_go_with_the_critics_shape():
    fooling, telling = gan_loss_from_func(functional.l1_loss, bce)
    output, target = torch.zeros(2, 3), torch.ones(2, 3)

    # log 2 of being told apart, 1 of not being the target.
    assert fooling(torch.zeros(2, 5), output, target).item() == pytest.approx(
        math.log(2) + 1
    )
    assert telling(torch.zeros(2, 5), torch.zeros(2, 5)).item() == pytest.approx(
        math.log(2)
    )


def test_a_critics_accuracy_counts_all_its_outputs():
    outputs = torch.tensor([[1.0, -1.0], [-1.0, -1.0]])

    share = accuracy_thresh_expand(outputs, torch.tensor([1, 0]))

    assert share.item() == 0.75
    assert accuracy_thresh_expand(outputs, torch.tensor([1, 1]), -2, False) == 1


# ---- networks -----------------------------------------------------------------


def test_one_of_the_two_answers_and_switch_changes_that():
    gan = GANModule(nn.Identity(), AddChannels(1))
    noise = torch.zeros(2, 3)

    answers = [gan(noise).shape]
    gan.switch()
    answers.append(gan(noise).shape)
    gan.switch(True)
    answers.append(gan(noise).shape)

    assert answers == [(2, 3, 1), (2, 3), (2, 3)]


@pytest.mark.parametrize("size", [8, 16, 64])
def test_basic_networks_fit_each_other(size):
    generator = basic_generator(size, 3, in_sz=5, n_features=4, n_extra_layers=1)
    critic = basic_critic(size, 3, n_features=4, n_extra_layers=1)

    images = generator(torch.randn(2, 5))

    assert images.shape == (2, 3, size, size)
    assert images.abs().max() <= 1
    assert critic(images).shape == (2, 1)


def test_basic_critic_takes_other_activations_and_no_norms():
    critic = basic_critic(8, 1, norm=False, activation=partial(nn.LeakyReLU, 0.2))

    kinds = [type(layer) for layer in critic]
    assert kinds == [nn.Conv2d, nn.LeakyReLU, nn.Conv2d, nn.Flatten]


@pytest.mark.parametrize("size", [28, 4, 100])
def test_sizes_that_do_not_come_to_four_are_refused(size):
    with pytest.raises(OptionError, match=f"in_size must come to 4 .* {size} does not"):
        basic_critic(size, 1)


@pytest.mark.parametrize("size", [4, 28, 0])
def test_sizes_that_doubling_does_not_come_to_are_refused(size):
    with pytest.raises(OptionError, match=f"out_size must be 4 doubled .* got {size}"):
        basic_generator(size, 1)


def test_gan_critic_looks_at_parts_of_images_of_many_sizes():
    critic = gan_critic(n_channels=1, nf=8, n_blocks=2)

    assert critic(torch.randn(2, 1, 32, 32)).shape == (2, 1)
    assert critic(torch.randn(2, 1, 64, 64)).shape == (2, 25)  # 64 / 8 - 3, squared


def test_self_attention_starts_as_the_identity():
    maps = torch.randn(2, 8, 3, 3)
    attention = SelfAttention(8)

    assert torch.equal(attention(maps), maps)

    nn.init.ones_(attention.gamma)
    assert not torch.allclose(attention(maps), maps)


# ---- what is refused ----------------------------------------------------------


def test_a_model_that_is_no_pair_is_refused():
    learner = Learner(
        make_dls(), nn.Linear(2, 2), nn.MSELoss(), cbs=[GANTrainer(), EveryBatch()]
    )

    with pytest.raises(OptionError, match=r"must be GANModule\(generator, critic\)"):
        learner.fit(1)


@pytest.mark.parametrize(
    "batch", [(torch.zeros(4, 2),), {"noise": torch.zeros(4, 2), "y": torch.zeros(4)}]
)
def test_batches_that_are_no_pairs_are_refused(batch):
    with pytest.raises(DataError, match="gan-trainer: a batch must be a pair"):
        make_learner(dls=[batch] * 2).fit(1)


@pytest.mark.parametrize(
    "switcher", [FixedGANSwitcher, AdaptiveGANSwitcher, GANDiscriminativeLR]
)
def test_what_needs_a_trainer_says_so(switcher):
    with pytest.raises(ActivationError, match="gan-trainer"):
        Learner(make_dls(), nn.Linear(2, 2), nn.MSELoss(), cbs=switcher())


@pytest.mark.parametrize(
    "name", ["mixup", "cutmix", "gradient-accumulation", "bn-freeze"]
)
def test_what_would_mix_the_turns_is_refused(name):
    other = type("Other", (Callback,), {"name": name, "after_batch": lambda self: None})

    with pytest.raises(ActivationError, match="conflicts with"):
        make_learner(other())


def test_two_switchers_are_refused():
    with pytest.raises(ActivationError, match="conflicts with"):
        make_learner(AdaptiveGANSwitcher())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: GANTrainer(clip=0), "gan-trainer: clip must be a number above 0"),
        (lambda: GANTrainer(beta=1), "gan-trainer: beta must be at least 0 and below"),
        (lambda: FixedGANSwitcher(n_crit=0), "fixed-gan-switcher: n_crit must be"),
        (lambda: FixedGANSwitcher(n_gen=1.5), "fixed-gan-switcher: n_gen must be"),
        (lambda: AdaptiveGANSwitcher("a"), "adaptive-gan-switcher: gen_thresh must"),
        (
            lambda: AdaptiveGANSwitcher(critic_thresh=math.nan),
            "adaptive-gan-switcher: critic_thresh must",
        ),
        (lambda: GANDiscriminativeLR(0), "gan-discriminative-lr: mult_lr must be"),
        (
            lambda: gan_loss_from_func(bce, bce, (1, 2, 3)),
            "gan: weights_gen must be two numbers",
        ),
    ],
)
def test_options_that_cannot_be_are_refused_with_a_good_one(make, message):
    with pytest.raises(OptionError, match=f"{message}.* Use "):
        make()


# ---- digits -------------------------------------------------------------------


def test_a_gan_learns_where_the_ink_of_digits_is():
    torch.manual_seed(0)
    images = torch.tensor(load_digits().data, dtype=torch.float32)[:512]
    images = images.view(-1, 1, 8, 8) / 8 - 1
    generator = torch.Generator().manual_seed(1)
    noise = torch.randn(512, 16, generator=generator)
    watch = Watch()
    learner = gan_learner(
        DataLoader(TensorDataset(noise, images), 32, shuffle=True),
        basic_generator(8, 1, in_sz=16, n_features=16),
        basic_critic(8, 1, n_features=16),
        *gan_loss_from_func(functional.l1_loss, bce, (1, 0)),
        cbs=watch,
        opt_func=partial(torch.optim.Adam, betas=(0.5, 0.99)),
        lr=2e-3,
        seed=0,
    )
    mean = images.mean(0)

    def distance():
        with torch.no_grad():
            return (learner.model.generator(noise).mean(0) - mean).abs().mean().item()

    before = distance()
    learner.fit(14)

    assert watch.turns == ["crit", "gen"] * 112
    assert all(map(math.isfinite, watch.losses))
    for turn, (moved_generator, moved_critic) in zip(
        watch.turns, watch.moved, strict=True
    ):
        assert (moved_critic if turn == "gen" else moved_generator) == set()
    assert distance() < 0.5 * before
