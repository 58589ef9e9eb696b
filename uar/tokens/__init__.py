"""Visual tokens: the tokenizers that make them and the cached array that holds them."""
