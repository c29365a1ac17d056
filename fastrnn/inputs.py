"""The input's product with W_ih and its gradients: of vectors, or of one-hot vectors by index."""

import torch


class DenseInput:
    """x W_ihᵀ + b_ih as a product. `x` is (rows, I)."""

    def __init__(self, x):
        self.x = x

    def project(self, w, b, out):
        if b is None:
            torch.mm(self.x, w.t(), out=out)
        else:
            torch.addmm(b, self.x, w.t(), out=out)

    def add_weight_gradient(self, d, dw):
        dw.addmm_(d.t(), self.x)


class OneHotInput:
    """The same where row k of x is one-hot, given by its index x[k]: a look-up in W_ih."""

    def __init__(self, x):
        self.x = x

    def project(self, w, b, out):
        rows = w.t().index_select(0, self.x)
        if b is None:
            out.copy_(rows)
        else:
            torch.add(rows, b, out=out)

    def add_weight_gradient(self, d, dw):
        if d.is_cuda:  # index_add_ would add in any order, with other roundings in every run
            dw += torch.ops.aten.embedding_dense_backward(d, self.x, dw.shape[1], -1, False).t()
        else:
            dw.t().index_add_(0, self.x, d)


def input_rows(x):
    """The input of some rows: (rows, I), or (rows,) indices."""
    return DenseInput(x) if x.is_floating_point() else OneHotInput(x)
