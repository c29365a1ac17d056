"""The examples of what torch.nn cannot do on a GPU: on a CPU they give torch.nn's numbers, in
float64 to rounding, and what they teach comes out."""

import copy

import pytest
import torch
from torch.func import stack_module_state

import fastrnn
from examples import ensemble, integrated_gradients, maml, per_sample_gradients, wgan_gp

EXAMPLES = [ensemble, integrated_gradients, maml, per_sample_gradients, wgan_gp]


def double(*data):
    return tuple(t.double() for t in data)


def pair(model):
    """The model in float64, and the same weights in torch.nn."""
    model = model.double()
    native = fastrnn.restore(copy.deepcopy(model), report=None)
    assert type(native.rnn).__module__.startswith("torch.nn")
    return model, native


def close(ours, theirs):
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-11)


def only(figures, *words):
    """The figure whose name has these words."""
    (found,) = (value for name, value in figures.items() if all(word in name for word in words))
    return found


def test_wgan_gp_has_the_gradient_of_its_penalty():
    critic, native = pair(wgan_gp.Critic())
    x = wgan_gp.real(6).double()
    close(wgan_gp.penalty_gradient(critic, x), wgan_gp.penalty_gradient(native, x))


def test_wgan_gp_descends_its_penalty():
    critic, x = wgan_gp.Critic(), wgan_gp.real(16)
    adam = torch.optim.Adam(critic.parameters(), lr=5e-3)
    before = wgan_gp.penalty(critic, x).item()
    for _ in range(40):
        adam.zero_grad()
        wgan_gp.penalty(critic, x).backward()
        adam.step()
    assert wgan_gp.penalty(critic, x).item() < 0.1 * before
    assert wgan_gp.steepness(critic, x).mean().item() == pytest.approx(1, abs=0.2)


def test_wgan_gp_runs(device, ieee, capsys):
    figures = wgan_gp.main(["--steps", "10", "--device", device])
    assert only(figures, "penalty's gradient") < 1e-4
    assert 0 < only(figures, "waves, after") < 2
    assert "10/10" in capsys.readouterr().out


def test_maml_has_the_gradient_through_the_inner_step():
    model, native = pair(maml.Forecaster())
    examples, others = (double(*data) for data in maml.tasks(3))
    weights = dict(model.named_parameters())
    error = maml.error_after(maml.loss_of(model), weights, examples, others, steps=1)
    ours = torch.autograd.grad(error.mean(), weights.values())

    loss, weights = maml.loss_of(native), dict(native.named_parameters())
    errors = []
    for x, y, other_x, other_y in zip(*examples, *others, strict=True):
        slopes = torch.autograd.grad(loss(weights, x, y), weights.values(), create_graph=True)
        adapted = {
            name: w - maml.RATE * slope
            for (name, w), slope in zip(weights.items(), slopes, strict=True)
        }
        errors.append(loss(adapted, other_x, other_y))
    close(error, torch.stack(errors))
    close(ours, torch.autograd.grad(torch.stack(errors).mean(), weights.values()))


def test_maml_learns_to_adapt_in_one_step(device, ieee):
    figures = maml.main(["--steps", "50", "--device", device])
    assert only(figures, "as learned") > 0.4
    assert only(figures, "one step") < 0.1
    assert only(figures, "five steps") < 0.1


def test_integrated_gradients_are_those_of_torch_nn_and_complete():
    model, native = pair(integrated_gradients.Adder().eval())
    x = integrated_gradients.sequences(5)[0].double()
    start = integrated_gradients.baseline(x)
    ours = integrated_gradients.attributions(model, x, start)
    close(ours, integrated_gradients.attributions(native, x, start))
    missed = {
        points: integrated_gradients.attributions(model, x, start, points).sum((0, 2))
        - (model(x) - model(start))
        for points in (8, 16)
    }
    # The midpoint rule: half the stretch, a quarter of the error.
    torch.testing.assert_close(
        missed[8] / missed[16], torch.full_like(x[0, :, 0], 4), rtol=0.05, atol=0
    )


def test_integrated_gradients_find_the_marked_steps(device, ieee, capsys):
    figures = integrated_gradients.main(["--steps", "150", "--device", device])
    assert only(figures, "marked steps") > 0.8
    assert only(figures, "completeness") < 1e-2
    assert capsys.readouterr().out.count("*") == integrated_gradients.MARKED


def test_the_ensemble_trains_as_its_models_one_by_one():
    torch.manual_seed(0)
    models = [ensemble.Forecaster().double() for _ in range(3)]
    natives = [fastrnn.restore(copy.deepcopy(model), report=None) for model in models]
    batches = [double(*ensemble.data(4, 1, 3)) for _ in range(3)]
    together = ensemble.train_together(models, batches)
    # The optimizer works on a copy: the models have their first weights still.
    first = dict(natives[0].named_parameters())
    assert all(torch.equal(w, first[name]) for name, w in models[0].named_parameters())
    close(together, ensemble.train_one_by_one(models, batches))
    close(together, ensemble.train_one_by_one(natives, batches))


def test_the_ensemble_forecasts_as_its_models_do():
    models = [ensemble.Forecaster().double() for _ in range(3)]
    weights, _ = stack_module_state(models)
    x, _ = double(*ensemble.data(5, 1, 3))
    natives = [fastrnn.restore(copy.deepcopy(model), report=None) for model in models]
    close(ensemble.forecasts(models[0], weights, x), torch.stack([native(x) for native in natives]))


def test_the_ensemble_is_uncertain_where_it_has_seen_nothing(device, ieee):
    figures = ensemble.main(["--steps", "60", "--device", device])
    assert only(figures, "spread", "training") < 0.1
    assert only(figures, "spread", "fast") > 2 * only(figures, "spread", "training")
    assert only(figures, "one by one") < 1e-3


def test_per_sample_gradients_are_those_of_a_loop():
    model, native = pair(per_sample_gradients.Classifier())
    x, y = double(*per_sample_gradients.data(7))
    close(per_sample_gradients.by_vmap(model, x, y), per_sample_gradients.by_loop(native, x, y))


def test_no_sample_counts_for_more_than_its_share(monkeypatch):
    monkeypatch.setattr(per_sample_gradients, "NOISE", 0.0)
    model = per_sample_gradients.Classifier()
    x, y = per_sample_gradients.data(4)
    grads = per_sample_gradients.by_vmap(model, x, y)
    long = {name: 1e3 * g for name, g in grads.items()}
    for b in range(4):
        one = {name: g[b : b + 1] for name, g in long.items()}
        clipped = torch.cat([g.flatten() for g in per_sample_gradients.private(one).values()])
        assert clipped.norm().item() == pytest.approx(per_sample_gradients.CLIP, rel=1e-4)
    short = {name: 1e-3 * g for name, g in grads.items()}
    mean = {name: g.mean(0) for name, g in short.items()}
    torch.testing.assert_close(per_sample_gradients.private(short), mean)


def test_per_sample_gradients_train(device, ieee, capsys):
    figures = per_sample_gradients.main(["--steps", "120", "--device", device])
    assert only(figures, "accuracy") > 0.9
    assert only(figures, "difference") < 1e-4


@pytest.mark.parametrize("example", EXAMPLES)
@pytest.mark.parametrize(
    ("option", "reason"),
    [
        (["--steps", "0"], "invalid positive value"),
        (["--device", "toaster"], "'toaster' cannot be used: "),
    ],
)
def test_wrong_options_end_with_code_2(example, option, reason, capsys):
    with pytest.raises(SystemExit, match="2"):
        example.main(option)
    assert reason in capsys.readouterr().err
