"""A trained model at work: beam search, reports, features, attention."""
