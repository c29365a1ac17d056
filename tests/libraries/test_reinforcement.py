"""Recurrent policies."""

import io

import pytest
import torch
from small_models import assert_near, converted, rnns, way

import fastrnn


@pytest.mark.parametrize("name", ["LSTM", "GRU"])
def test_torchrl(name, library):
    """Its modules ask for torch.nn's class whenever they are called."""
    modules = library("torchrl.modules")
    from tensordict import TensorDict

    batch = {"obs": torch.randn(3, 20, 4), "is_init": torch.rand(3, 20, 1) < 0.2}
    data, found = TensorDict(batch, [3, 20]), []
    for how in ("native", "convert", "patch"):
        with way(how):
            torch.manual_seed(0)
            module = getattr(modules, f"{name}Module")(
                input_size=4, hidden_size=8, batch_first=True, in_key="obs", out_key="emb"
            )
            if how == "convert":
                _, (line,) = converted(module)
                assert f"left alone, {name}Module." in line
            assert rnns(module) == {f"{'fastrnn' if how == 'patch' else 'torch'}.{name}"}
            with modules.set_recurrent_mode(True):
                found.append(module(data.clone())["emb"])
            found[-1].sum().backward()
    assert_near(found[1], found[0])
    assert_near(found[2], found[0])


@pytest.mark.parametrize("how", ["convert", "patch"])
def test_sb3_contrib(how, library):
    RecurrentPPO = library("sb3_contrib").RecurrentPPO
    learnt = []
    for ours in (False, True):
        with way(how if ours else "native"):
            agent = RecurrentPPO(
                "MlpLstmPolicy", "CartPole-v1", n_steps=16, batch_size=16, n_epochs=1, seed=0,
                device="cpu", policy_kwargs={"lstm_hidden_size": 8},
            )  # fmt: skip
            if ours:
                converted(agent.policy)
        assert rnns(agent.policy) == {"fastrnn.LSTM" if ours else "torch.LSTM"}
        agent.learn(32)
        file = io.BytesIO()
        agent.save(file)
        file.seek(0)
        agent = RecurrentPPO.load(file, device="cpu")
        learnt.append(list(agent.policy.parameters()))
    assert_near(learnt[1], learnt[0])


def test_tianshou(library):
    Recurrent = library("tianshou.utils.net.common").Recurrent
    net = Recurrent(layer_num=1, state_shape=(4,), action_shape=(2,), hidden_layer_size=8)
    x = torch.randn(3, 5, 4)
    expected, _ = net(x)
    assert rnns(converted(net)[0]) == {"fastrnn.LSTM"}
    output, state = net(x)
    assert_near(output, expected)
    net(x[:, :1], state)[0].sum().backward()
    assert type(net.nn) is fastrnn.LSTM
