"""Statistical mechanics of networks: order parameters, phase diagrams, Monte Carlo."""

# Hopfield networks: replica theory, lines, diagrams

# Pseudo-inverse rule, synchronous (Little) dynamics

# Dense (P-body) Hebbian networks

# Multitasking (diluted) networks

# Spin glasses, replica-symmetry breaking

# Patterns and couplings

# Monte Carlo

# Parallel tempering and observables

# Associative memories
