"""Raw data sets as one study table, packed films, report words, and batches of both."""
