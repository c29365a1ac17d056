"""Programs, drawn by chance, that put tensors into `_flat_weights` and under the names."""

import copy
import random

import pytest
import torch
from torch import nn

import fastrnn
from tests.contract import (
    PACKED,
    STEP,
    X,
    assert_same,
    each_class,
    exercise,
    insist_on_the_loop,
    outcome,
    twins,
)
from tests.test_contract_flat_weights import like

DOUBLE = torch.float64


@pytest.fixture(autouse=True)
def loop(monkeypatch):
    insist_on_the_loop(monkeypatch)


class Program:
    """Two modules to which the same happens, drawn by chance."""

    def __init__(self, kind, seed):
        self.modules = list(twins(kind, 5, 6, dtype=DOUBLE))
        self.chance, self.log = random.Random(seed), []

    def run(self):
        acts = [act for name, act in vars(Program).items() if name.startswith("act_")]
        for seed in range(14):
            act = self.chance.choice(acts)
            self.log.append(act.__name__)
            k = self.chance.randrange(len(self.modules[0]._flat_weights_names))
            for n, module in enumerate(self.modules):
                replacement = act(self, module, k, 100 * seed)
                self.modules[n] = module if replacement is None else replacement
            self.assert_agree(seed)

    def assert_agree(self, seed):
        # Calls change what comes after, so not every act is followed by one.
        if self.chance.random() < 0.5:
            self.log.append("call")
            x = self.chance.choice([X, STEP, PACKED])
            found = [outcome(lambda m=m: exercise(m, x)) for m in self.modules]
            assert found[1].error == found[0].error, self.log
            if found[0].error is None:
                assert_same(found[1].value, found[0].value)

    def act_put(self, module, k, seed):
        if module._flat_weights[k] is not None:
            module._flat_weights[k] = like(module._flat_weights[k], seed)

    def act_put_the_own(self, module, k, seed):
        weight = module._parameters.get(module._flat_weights_names[k])
        if weight is not None:
            module._flat_weights[k] = weight

    def act_assign(self, module, k, seed):
        weight = getattr(module, module._flat_weights_names[k], None)
        if weight is not None:
            new = nn.Parameter(like(weight, seed).detach())
            setattr(module, module._flat_weights_names[k], new)

    def act_replace_behind(self, module, k, seed):
        name = module._flat_weights_names[k]
        if module._parameters.get(name) is not None:
            module._parameters[name] = nn.Parameter(like(module._parameters[name], seed).detach())

    def act_assign_the_same(self, module, k, seed):
        name = module._flat_weights_names[k]
        if module._parameters.get(name) is not None:
            setattr(module, name, module._parameters[name])

    def act_plain_tensor(self, module, k, seed):
        name = module._flat_weights_names[k]
        weight = module._parameters.pop(name, None)
        if weight is not None:
            setattr(module, name, like(weight, seed) * 0.5)

    def act_functional_call(self, module, k, seed):
        some = {n: like(p, seed).detach() for n, p in module.named_parameters()}
        torch.func.functional_call(module, some, (X,))

    def act_functional_gradient(self, module, k, seed):
        some = {n: like(p, seed).detach() for n, p in module.named_parameters()}

        def loss(some):
            return torch.func.functional_call(module, some, (X,))[0].sum()

        torch.func.grad(loss)(some)

    def act_copy(self, module, k, seed):
        if leaves_only([*module._flat_weights, *vars(module).values()]):
            return copy.deepcopy(module)
        return None

    def act_load(self, module, k, seed):
        other = {name: like(w, seed).detach() for name, w in module.state_dict().items()}
        module.load_state_dict(other, assign=bool(k % 2))

    def act_move(self, module, k, seed):
        if leaves_only(module._flat_weights):
            module.double()

    def act_convert_and_restore(self, module, k, seed):
        if module is self.modules[1]:
            (fastrnn.restore, fastrnn.convert)[k % 2](module, None)


def leaves_only(values):
    return all(v.is_leaf for v in values if isinstance(v, torch.Tensor))


@each_class
@pytest.mark.parametrize("seed", range(25))
@pytest.mark.filterwarnings("ignore")
def test_programs_drawn_by_chance(kind, seed):
    Program(kind, seed).run()
