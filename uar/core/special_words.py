"""The four ids that every vocabulary begins with, known to the model, its losses and its decoding."""

PAD, BOS, EOS, UNK = range(4)
SPECIAL_WORDS = ("<pad>", "<bos>", "<eos>", "<unk>")
