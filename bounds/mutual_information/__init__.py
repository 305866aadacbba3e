"""Mutual information of samples: estimates with error, ceiling, bracket and warnings."""

# From nearest neighbours
from bounds.mutual_information.ksg import ksg as ksg
from bounds.mutual_information.mixed import mixed as mixed
from bounds.mutual_information.entropy import (
    kl as kl,
    kl_entropy as kl_entropy,
    kl_weights as kl_weights,
    weighted_kl as weighted_kl,
)

# From a known law
from bounds.mutual_information.gaussian import gaussian as gaussian
from bounds.mutual_information.noisy_channel import (
    noisy_channel as noisy_channel,
    noisy_channel_labels as noisy_channel_labels,
    noisy_stack as noisy_stack,
)

# Samples of known information
from bounds.mutual_information.reference import (
    Sample as Sample,
    additive_uniform as additive_uniform,
    gaussian_pairs as gaussian_pairs,
    image_pairs as image_pairs,
    labelled_mixture as labelled_mixture,
    student_pairs as student_pairs,
)

# Fewer dimensions
from bounds.mutual_information.compression import (
    PCA as PCA,
    Autoencoder as Autoencoder,
    autoencoder as autoencoder,
    gaussian_channel as gaussian_channel,
    pca as pca,
)

# Networks with noisy layers
from bounds.mutual_information.information_plane import (
    InformationPlane as InformationPlane,
    information_plane as information_plane,
    plot_information_plane as plot_information_plane,
)
