"""Statistical mechanics of learning: order parameters, phase diagrams, Monte Carlo."""
