"""A trained model at work: beam search and samples, reports, features, attention."""
