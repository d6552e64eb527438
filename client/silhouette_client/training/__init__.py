"""Training at a partner: people in, one releasable update out."""
