"""Models, data and scores of ``gp_tables.py``.

To add a model, write a function and add one line to ``REGRESSION`` or ``CLASSIFICATION``. A
regression model maps a :class:`Task` to a predictive law of the test targets (``mean``,
``pointwise`` and ``interval``); a classifier maps a :class:`Task` to a function from inputs to
probabilities. Both see ``task.x``, ``task.y`` (training), ``task.xs`` (test inputs), and the
precomputed kernels ``task.kernels``; hyper-parameters must come from the training part alone.
"""

import dataclasses
import itertools

import numpy as np
from scipy.special import softmax

import gp
import ntk
from deeplimits import datasets
from gp.calibration import (
    accuracy,
    brier_score,
    interval_coverage,
    negative_log_likelihood,
    ood_auroc,
    reliability,
)
from gp.classify import Classifier
from gp.mixtures import ScaleMixture
from gp.ood import corrupt
from gp.scale_priors import BetaPrime, BurrXII, InverseGamma

#: Noise variances over kernel variance, among which the evidence chooses.
NOISES = np.geomspace(1e-4, 1.0, 7)
#: Scales of the latent functions of a classifier without a random scale.
SCALES = np.geomspace(0.3, 3e3, 7)
OUTLIERS, OUTLIER_SIZE = 0.05, 5.0
#: Training points of the regression tables: few, where the scale is uncertain, and more.
TRAIN_SIZES = (20, 60)
TRAIN_CLASSES, TEST_CLASSES = 80, 200


@dataclasses.dataclass
class Task:
    """One split: training data, test inputs, and kernels by name, each a callable on inputs."""

    x: np.ndarray
    y: np.ndarray
    xs: np.ndarray
    kernels: dict


class Cached:
    """A kernel that remembers the matrices that it has computed, by the identity of its inputs."""

    def __init__(self, kernel):
        self.kernel, self.known = kernel, {}

    def __call__(self, x, z=None):
        key = id(x), None if z is None else id(z)
        if key not in self.known:  # the inputs are kept alive, so that an id means one array
            self.known[key] = x, z, np.asarray(self.kernel(x) if z is None else self.kernel(x, z))
        return self.known[key][2]


def networks():
    shapes = itertools.product((1, 3), (0.1, 1.0))
    return {f"relu{d}/{b}": ntk.mlp(d, "relu", W_std=2**0.5, b_std=b).nngp for d, b in shapes}


def by_evidence(task, make):
    """The posterior with the largest evidence over kernels and noise."""
    posts = []
    for kernel, noise in itertools.product(task.kernels.values(), NOISES):
        own = float(np.mean(np.diagonal(kernel(task.x))))
        posts.append(make(kernel, noise * own).condition(task.x, task.y))
    return max(posts, key=lambda post: post.log_evidence)


# --- regression: a task to the law of the test targets


def process(task):
    """Gaussian process; the scale has its maximum-likelihood value q / n."""

    def fitted(kernel, noise):
        white = gp.GP(kernel, noise=noise).condition(task.x, task.y).white
        scale = float(np.mean(white**2))
        return gp.GP(lambda a, b=None: scale * kernel(a, b), noise=scale * noise)

    return by_evidence(task, fitted).predict(task.xs, noise=True)


def mixture(prior):
    def law(task):
        post = by_evidence(task, lambda kernel, noise: ScaleMixture(kernel, prior, noise))
        return post.marginals(task.xs, noise=True)

    return law


def deep_kernel_machine(task):
    """Two learned Gram matrices; noise by the evidence of the wide limit, width by five folds."""
    x, xs = (np.hstack([part, np.ones((len(part), 1))]) for part in (task.x, task.xs))
    models = [gp.DKM("relu", layers=2, noise=noise) for noise in np.geomspace(0.01, 0.6, 6)]
    model = max(models, key=lambda m: m.nngp(x, task.y).objective)
    choice = gp.choose_nu(model, x, task.y, [1.0, 10.0, 100.0, np.inf], folds=5, tol=1e-3)
    return choice.fitted.predict(xs, noise=True)


@dataclasses.dataclass
class Sampled:
    """The law of noisy targets given draws of the function."""

    found: gp.Predictions

    @property
    def mean(self):
        return self.found.mean[:, 0]

    def pointwise(self, y):
        return self.found.log_prob(y)

    def interval(self, level=0.95):
        flat = self.found.draws.reshape(-1, len(self.found.mean))
        rng = np.random.default_rng(0)
        noisy = flat[:, None] + self.found.noise**0.5 * rng.normal(size=(len(flat), 20, 1))
        tails = [(1 - level) / 2, (1 + level) / 2]
        return tuple(np.quantile(noisy.reshape(-1, flat.shape[1]), tails, axis=0))


def matched_network(task):
    """32 hidden units with the prior closest to the RBF process of largest evidence; NUTS."""
    start = gp.GP(gp.RBF(task.x.shape[1] ** 0.5), noise=0.1)
    target = gp.maximize_evidence(start, task.x, task.y).model
    grid = np.unique(task.x, axis=0)[:40]
    family = ntk.mlp_family("erf", 1, scales="separate", width=32)
    net = gp.match_prior(family, target.kernel, grid).net
    chains = (
        gp.BNN(net, noise=max(float(target.noise), 1e-3))
        .condition(task.x, task.y)
        .sample(key=0, chains=2, warmup=300, draws=300)
    )
    return Sampled(chains.predict(task.xs))


REGRESSION = {
    "GP": process,
    "DKM": deep_kernel_machine,
    "BNN, matched prior": matched_network,
    "Student-t IG(2,2)": mixture(InverseGamma(2.0, 2.0)),
    "Student-t IG(.5,.5)": mixture(InverseGamma(0.5, 0.5)),
    "Burr(2,1)": mixture(BurrXII(2.0, 1.0)),
    "half-Cauchy": mixture(BetaPrime(0.5, 0.5)),
}


def regression_task(name, split, n, outliers):
    data = datasets.load(name)
    order = np.random.default_rng(split).permutation(len(data))
    train, test = data.take(order[:n]), data.take(order[-58:])
    x = datasets.standardize(train.X)
    xs = datasets.standardize(test.X, train.X)
    centre, spread = train.y.mean(), train.y.std()
    y, ys = (train.y - centre) / spread, (test.y - centre) / spread
    if outliers:
        rng = np.random.default_rng(split)
        hit = rng.random(len(y)) < OUTLIERS
        y = np.where(hit, OUTLIER_SIZE * rng.choice([-1.0, 1.0], len(y)), y)
    return Task(x, y, xs, {k: Cached(kernel) for k, kernel in networks().items()}), ys


def score_regression(law, ys):
    return {
        "NLL": -float(np.mean(law.pointwise(ys))),
        "RMSE": float(np.sqrt(np.mean((law.mean - ys) ** 2))),
        "coverage error": interval_coverage(law, ys).error,
    }


# --- classification: a task to a function from inputs to probabilities


def plain(task):
    """One latent function per class by expectation propagation; kernel and scale by evidence."""
    return _by_evidence(task, "probit").predict_proba


def laplace(task):
    """The same with softmax probabilities by Laplace's approximation."""
    return _by_evidence(task, "softmax").predict_proba


def _by_evidence(task, likelihood):
    posts = []
    for kernel in task.kernels.values():
        own = float(np.mean(np.diagonal(kernel(task.x))))
        for scale in SCALES / own:
            model = Classifier(lambda a, b=None, k=kernel, s=scale: s * k(a, b), likelihood)
            posts.append(model.condition(task.x, task.y))
    return max(posts, key=lambda post: post.log_evidence)


def deep_kernel_classifier(task):
    """The machine of the regressions on one-hot labels, with a temperature by labels held out."""
    with_bias = lambda x: np.hstack([x, np.ones((len(x), 1))])  # noqa: E731
    x, labels = with_bias(task.x), np.eye(10)[task.y] - 0.1
    models = [gp.DKM("relu", layers=2, noise=noise) for noise in np.geomspace(0.001, 0.1, 5)]
    model = max(models, key=lambda m: m.nngp(x, labels).objective)
    choice = gp.choose_nu(model, x, labels, [1.0, 10.0, 100.0, np.inf], folds=5, tol=1e-3)
    machine = choice.fitted.model
    train = machine.fit if np.isfinite(choice.nu) else machine.nngp
    held = np.arange(len(x)) % 4 == 0
    mean = train(x[~held], labels[~held]).mean(x[held])
    loss = lambda t: negative_log_likelihood(softmax(mean / t, axis=1), task.y[held]).mean  # noqa: E731
    temperature = min(np.geomspace(0.01, 1.0, 40), key=loss)
    return lambda x: softmax(choice.fitted.mean(with_bias(x)) / temperature, axis=1)


def matched_classifier(task):
    """16 hidden units whose prior is closest to the process of largest evidence; NUTS, softmax."""
    post = _by_evidence(task, "probit")
    family = ntk.mlp_family("erf", 1, scales="separate", width=16, out_dim=10)
    net = gp.match_prior(family, post.kernel, task.x[:40]).net
    chains = (
        gp.BNN(net, likelihood="softmax")
        .condition(task.x, task.y)
        .sample(key=0, chains=2, warmup=100, draws=100)
    )
    return lambda x: chains.predict(x).probabilities


def random_scale(prior):
    def predictor(task):
        posts = []
        for kernel in task.kernels.values():
            own = float(np.mean(np.diagonal(kernel(task.x))))
            model = Classifier(lambda a, b=None, k=kernel, s=own: k(a, b) / s, prior=prior)
            posts.append(model.condition(task.x, task.y))
        return max(posts, key=lambda post: post.log_evidence).predict_proba

    return predictor


def one_hot_regression(task):
    """Regression on one-hot labels with one temperature by leave-one-out."""
    fits = [
        gp.GPClassifier(kernel, noise=noise).fit(task.x, task.y)
        for kernel in networks().values()
        for noise in NOISES
    ]
    return max(fits, key=lambda fit: fit.log_marginal_likelihood_value_).predict_proba


CLASSIFICATION = {
    "GP": plain,
    "GP, softmax by Laplace": laplace,
    "DKM": deep_kernel_classifier,
    "BNN, matched prior": matched_classifier,
    "scale IG(2,2)": random_scale(InverseGamma(2.0, 2.0)),
    "scale Burr(2,1)": random_scale(BurrXII(2.0, 1.0)),
    "regression": one_hot_regression,
}


def small_fashion():
    """Fashion images at the size and range of the digits: 7 x 7 block means in an 8 x 8 frame."""
    images = datasets.load("fashion_1000").images[:TEST_CLASSES, :, :, 0]
    blocks = images.reshape(-1, 7, 4, 7, 4).mean((2, 4)) / 255 * 16
    return np.pad(blocks, ((0, 0), (0, 1), (0, 1))).reshape(-1, 64)


def classification_task(split):
    digits = datasets.load("digits")
    order = np.random.default_rng(split).permutation(len(digits))
    train, test = (
        digits.take(order[:TRAIN_CLASSES]),
        digits.take(order[TRAIN_CLASSES:][:TEST_CLASSES]),
    )
    kernels = {name: Cached(net) for name, net in list(networks().items())[1:2]}
    task = Task(train.X / 16, train.y, test.X / 16, kernels)
    images = test.X.reshape(-1, 8, 8)
    foreign = {"Fashion": small_fashion() / 16}
    for kind in ("gaussian", "shot", "impulse", "blur"):
        hurt = corrupt(images, kind, 3, key=split, low=0.0, high=16.0)
        foreign[kind] = hurt.reshape(-1, 64) / 16
    return task, test.y, foreign


def score_classification(predict, task, labels, foreign):
    p = predict(task.xs)
    calibration = reliability(p, labels)
    row = {
        "accuracy": accuracy(p, labels).mean,
        "NLL": negative_log_likelihood(p, labels).mean,
        "Brier": brier_score(p, labels).mean,
        "ECE": calibration.ece,
        "ECE if calibrated": calibration.ece_if_calibrated,
    }
    for name, x in foreign.items():
        q = predict(x)
        row[f"AUROC {name}"] = ood_auroc(p, q).mean
        if name != "Fashion":  # corrupted digits keep their labels
            row[f"NLL {name}"] = negative_log_likelihood(q, labels).mean
    return row
