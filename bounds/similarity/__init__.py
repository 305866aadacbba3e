"""Similarity of representations: alignment at finite and infinite width, subspaces, matching."""

# Centred kernel alignment
from bounds.similarity.alignment import (
    center_gram as center_gram,
    cka as cka,
    cka_features as cka_features,
    cka_matrix as cka_matrix,
    linear_gram as linear_gram,
    plot_cka_matrix as plot_cka_matrix,
)
from bounds.similarity.wide import finite_width_cka as finite_width_cka, wide_cka as wide_cka

# Up to linear maps and rotations
from bounds.similarity.subspaces import (
    angular_procrustes as angular_procrustes,
    cca as cca,
    procrustes as procrustes,
    pwcca as pwcca,
    svcca as svcca,
)

# Unit by unit, relative to anchors, layer by layer
from bounds.similarity.matching import (
    Matching as Matching,
    guidance_distance as guidance_distance,
    matching as matching,
    relative_representations as relative_representations,
)
