"""The network of DARTS_V2 against a restatement of its structure in PyTorch, with copied weights."""

import jax
import numpy as np
import pytest

import zoo
from zoo.summary import abstract_variables, count_parameters
from zoo.vision.cells import GENOTYPES

torch = pytest.importorskip("torch")
nn = torch.nn

torch.manual_seed(0)


def norm(c):
    return nn.BatchNorm2d(c)


def conv(cin, cout, k=1, stride=1, padding=0, dilation=1, groups=1):
    return nn.Conv2d(cin, cout, k, stride, padding, dilation, groups, bias=False)


class Reduce(nn.Module):
    def __init__(self, cin, cout):
        super().__init__()
        self.conv1, self.conv2, self.norm = conv(cin, cout // 2, 1, 2), conv(cin, cout // 2, 1, 2), norm(cout)

    def forward(self, x):
        x = x.relu()
        return self.norm(torch.cat([self.conv1(x), self.conv2(x[:, :, 1:, 1:])], 1))


class Pointwise(nn.Module):
    def __init__(self, cin, cout):
        super().__init__()
        self.conv, self.norm = conv(cin, cout), norm(cout)

    def forward(self, x):
        return self.norm(self.conv(x.relu()))


class Separable(nn.Module):
    def __init__(self, c, k, stride, dilation):
        super().__init__()
        self.rounds = 1 if dilation > 1 else 2
        for i, s in zip((1, 2)[: self.rounds], (stride, 1), strict=False):
            setattr(self, f"depthwise{i}", conv(c, c, k, s, dilation * (k - 1) // 2, dilation, c))
            setattr(self, f"pointwise{i}", conv(c, c))
            setattr(self, f"norm{i}", norm(c))

    def forward(self, x):
        for i in range(1, self.rounds + 1):
            x = getattr(self, f"norm{i}")(getattr(self, f"pointwise{i}")(getattr(self, f"depthwise{i}")(x.relu())))
        return x


def edge(kind, c, stride):
    if kind == "skip_connect":
        return nn.Identity() if stride == 1 else Reduce(c, c)
    if kind == "max_pool_3x3":
        return nn.MaxPool2d(3, stride, 1)
    if kind == "avg_pool_3x3":
        return nn.AvgPool2d(3, stride, 1, count_include_pad=False)
    return Separable(c, int(kind[-1]), stride, 2 if kind.startswith("dil") else 1)


class Cell(nn.Module):
    def __init__(self, edges, before, last, c, reduces, halved):
        super().__init__()
        self.input0 = Reduce(before, c) if halved else Pointwise(before, c)
        self.input1, self.edges = Pointwise(last, c), edges
        for i, (kind, source) in enumerate(edges):
            setattr(self, f"edge{i}", edge(kind, c, 2 if reduces and source < 2 else 1))

    def forward(self, a, b):
        states = [self.input0(a), self.input1(b)]
        for i in range(0, len(self.edges), 2):
            states.append(sum(getattr(self, f"edge{j}")(states[self.edges[j][1]]) for j in (i, i + 1)))
        return torch.cat(states[2:], 1)


class Network(nn.Module):
    def __init__(self, genotype, c, num_cells, num_classes=10):
        super().__init__()
        self.conv_stem, self.norm_stem, self.num_cells = conv(3, 3 * c, 3, padding=1), norm(3 * c), num_cells
        before, last, halved = 3 * c, 3 * c, False
        for i in range(num_cells):
            reduces = i in (num_cells // 3, 2 * num_cells // 3)
            c *= 2 if reduces else 1
            edges = genotype.reduce if reduces else genotype.normal
            setattr(self, f"cell{i + 1}", Cell(edges, before, last, c, reduces, halved))
            before, last, halved = last, len(edges) // 2 * c, reduces
        self.head = nn.Linear(last, num_classes)

    def forward(self, x):
        a = b = self.norm_stem(self.conv_stem(x))
        for i in range(self.num_cells):
            a, b = b, getattr(self, f"cell{i + 1}")(a, b)
        return self.head(b.mean((2, 3)))


def copied(model):
    """Variables of the zoo from the state dict, whose names are the same."""
    names = {"weight": "kernel", "running_mean": "mean", "running_var": "var"}
    params, stats = {}, {}
    for path, value in model.state_dict().items():
        *modules, leaf = path.split(".")
        if leaf == "num_batches_tracked":
            continue
        array = value.numpy()
        if array.ndim == 4:
            array = array.transpose(2, 3, 1, 0)
        elif leaf == "weight" and array.ndim == 2:
            array = array.T
        name = "scale" if leaf == "weight" and array.ndim == 1 else names.get(leaf, leaf)
        tree = stats if leaf.startswith("running") else params
        for module in modules:
            tree = tree.setdefault(module, {})
        tree[name] = array
    return {"params": params, "batch_stats": stats}


@pytest.mark.parametrize("name", ["darts_v1", "darts_v2"])
def test_outputs_are_those_of_the_public_structure(name):
    model = Network(GENOTYPES[name], 4, 4).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.5, 2)
            module.weight.data.uniform_(0.5, 1.5)
            module.bias.data.normal_(0, 0.3)
    ours = zoo.create_model(name, features=4, num_cells=4)
    x = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        expected = model(x).numpy()
    found = jax.jit(ours.apply)(copied(model), x.numpy().transpose(0, 2, 3, 1))
    np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize(("name", "count"), [("darts_v1", 3_169_414), ("darts_v2", 3_349_342)])
def test_the_parameters_are_as_many(name, count):
    assert sum(p.numel() for p in Network(GENOTYPES[name], 36, 20).parameters()) == count
    card = zoo.model_card(name)
    assert card.num_parameters == count
    params = abstract_variables(zoo.create_model(name, auxiliary=True), card.example())["params"]
    inside = 576 * 128 + 2 * 128 + 128 * 768 * 4 + 2 * 768 + 768 * 10 + 10
    assert count_parameters(params["auxiliary"]) == inside
