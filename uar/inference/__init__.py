"""Using a trained model: beam search and samples, reports, features, attention."""
