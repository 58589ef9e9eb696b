"""UAR: Latent Space Unifier, Cross-modal Representation Aligner, Text-to-Image Refiner (§3)."""
