"""Visual tokens: the dVAE that makes them and the cached array that holds them."""
